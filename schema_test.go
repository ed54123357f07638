package stretcher

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/fujiwara/stretcher/internal/seekable"
	"github.com/fujiwara/stretcher/internal/yamlfields"
)

//go:generate go test -run ^(TestSchema|TestArchitectureDiagram)$ . -update

var update = flag.Bool("update", false, "write the generated files of docs/")

const schemaFile = "docs/manifest.schema.json"

// The JSON Schema of the manifest is made of the fields of Manifest and of the table of
// keys in docs/manifest.md. TestManifestSchema in e2e holds it against -check.
func TestSchema(t *testing.T) {
	var got bytes.Buffer
	encoder := json.NewEncoder(&got)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(manifestSchema(t)); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(schemaFile, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(schemaFile); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%s is not that of the fields and of docs/manifest.md (%v): run go generate", schemaFile, err)
	}
}

type object = map[string]any

// Values that are references to variables, such as '{{ must_env "ROOT" }}/app', are
// not known to an editor. Patterns are those that ECMA-262 and RE2 have in common.
const (
	reference = `|\{\{`
	noNUL     = `^[^\x00]*$`
)

// schemaRules has what the types of fields do not tell: about a value, or an item of a list.
func schemaRules() map[string]object {
	return map[string]object{
		"src":           {"type": list("string", "null"), "pattern": `^$|^[sS]3://[^/?#]+/[^?#]|^[gG][sS]://[^/?#]+/[^?#]|^[hH][tT][tT][pP][sS]?://[^/?#]|^[fF][iI][lL][eE]:/` + reference},
		"checksum":      {"type": list("string", "number", "null"), "pattern": `^(?:[0-9a-fA-F]{32}|[0-9a-fA-F]{40}|[0-9a-fA-F]{64}|[0-9a-fA-F]{128})?$` + reference},
		"dest":          {"type": list("string", "null"), "pattern": `^$|^/+[^/\x00][^\x00]*$` + reference},
		"dest_mode":     {"type": list("integer", "null"), "minimum": 0, "maximum": 07777},
		"sync_strategy": {"type": nil, "anyOf": list(object{"enum": strategies()}, object{"type": "string", "pattern": reference[1:]})},
		"index.offset":  {"type": "integer", "minimum": 0},
		"index.size":    {"type": "integer", "minimum": 1, "maximum": seekable.MaxIndex},
		"index.sha256":  {"type": list("string", "number"), "pattern": `^[0-9a-fA-F]{64}$` + reference},
		"keep_releases": {"type": list("integer", "null"), "minimum": 1},
		"expires":       {"type": "string", "pattern": `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$` + reference},
		"shared":        {"type": list("string", "number", "boolean"), "pattern": `^[^/\x00]`, "not": object{"type": "string", "pattern": `(?:^|/)\.\.(?:/|$)`}},
	}
}

// manifestSchema returns the schema of manifests in the draft 2020-12.
func manifestSchema(t *testing.T) object {
	s := mappingSchema("", new(Manifest).fields(), documentedKeys(t))
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "Manifest of stretcher"
	s["patternProperties"] = object{`^(?:x-|\.)`: true} // definitions for anchors
	// A mapping with a merge key may have the other keys by that.
	merged := object{"required": list("<<")}
	set := object{"type": "string", "minLength": 1}
	some := list(merged, object{"required": list("src"), "properties": object{"src": set}})
	var kinds []any
	for kind := range new(Commands).kinds() {
		command := object{"type": list("string", "number", "boolean"), "pattern": `\S`}
		kinds = append(kinds, object{"required": list(kind), "properties": object{kind: object{"type": "array", "contains": command}}})
	}
	s["anyOf"] = append(some, object{"required": list("commands"), "properties": object{"commands": object{"anyOf": append(kinds, merged)}}})
	s["if"] = object{"required": list("src"), "properties": object{"src": set}, "not": merged}
	given := object{"not": object{"enum": list("", nil)}}
	s["then"] = object{"required": list("checksum", "dest"), "properties": object{"checksum": given, "dest": given}}
	return s
}

// mappingSchema returns the schema of a mapping with fields, whose key is path.
func mappingSchema(path string, fields []yamlfields.Field, documented map[string]documentedKey) object {
	mapping := object{"type": "object"}
	properties := object{"<<": object{
		"description": "mapping, or list of mappings, whose keys are added unless they are there already",
		"anyOf":       list(mapping, object{"type": "array", "items": mapping}),
	}}
	for _, f := range fields {
		name := strings.TrimPrefix(path+"."+f.Name, ".")
		s := fieldSchema(name, f, documented)
		if key, ok := documented[name]; ok {
			s["description"] = key.meaning
			if key.fallback != nil {
				s["default"] = key.fallback
			}
			if mode, ok := key.fallback.(fs.FileMode); ok { // JSON has no octal numbers
				delete(s, "default")
				s["description"] = fmt.Sprintf("%s. Default: %#o", key.meaning, uint32(mode))
			}
		} else if _, nested := f.To.([]yamlfields.Field); !nested {
			panic("docs/manifest.md does not document the key " + name)
		}
		properties[f.Name] = s
	}
	return object{"type": "object", "properties": properties, "additionalProperties": false}
}

// fieldSchema returns the schema of the value of a field, by the type of its variable.
func fieldSchema(name string, f yamlfields.Field, documented map[string]documentedKey) object {
	value := object{"type": list("string", "number", "boolean", "null"), "pattern": noNUL}
	if rule, ok := schemaRules()[name]; ok {
		value = rule
		if value["type"] == nil {
			delete(value, "type")
		}
	}
	switch to := f.To.(type) {
	case *[]string, func([]string):
		return object{"type": list("array", "null"), "items": value}
	case *map[string]string:
		merge := mappingSchema("", nil, nil)["properties"]
		return object{"type": list("object", "null"), "properties": merge, "propertyNames": object{"pattern": `^[^=\x00]+$`}, "additionalProperties": value}
	case []yamlfields.Field:
		s := mappingSchema(name, to, documented)
		s["type"] = list("object", "null")
		return s
	}
	return value
}

// strategies returns the values of sync_strategy.
func strategies() (names []any) {
	_, expected, _ := strings.Cut(checkStrategy("?").Error(), "expected ")
	for _, name := range regexp.MustCompile(`, | or `).Split(expected, -1) {
		names = append(names, name)
	}
	return append(names, "", nil)
}

func list(items ...any) []any { return items }

// documentedKey is a line of the table of keys in docs/manifest.md.
type documentedKey struct {
	meaning  string
	fallback any // its default, nil if it has none
}

func documentedKeys(t *testing.T) map[string]documentedKey {
	t.Helper()
	page, err := os.ReadFile("docs/manifest.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "| key | type | default | since | meaning |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	link := regexp.MustCompile(` \(\[[^\]]*\]\([^)]*\)\)|\[([^\]]*)\]\([^)]*\)`)
	plain := strings.NewReplacer("`", "", "*", "")
	keys := map[string]documentedKey{}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) != 5 || !strings.HasPrefix(cells[0], "| `") {
			continue
		}
		key := documentedKey{meaning: plain.Replace(link.ReplaceAllString(strings.TrimSuffix(cells[4], " |"), "$1"))}
		if fallback, ok := strings.CutPrefix(cells[2], "`"); ok {
			fallback, _, _ = strings.Cut(fallback, "`")
			n, err := strconv.ParseUint(fallback, 0, 32)
			switch {
			case err != nil:
				key.fallback = fallback
			case fallback[0] == '0':
				key.fallback = fs.FileMode(n)
			default:
				key.fallback = n
			}
		}
		keys[strings.Trim(cells[0], "| `")] = key
	}
	if len(keys) == 0 {
		t.Fatal("docs/manifest.md has no table of keys")
	}
	return keys
}
