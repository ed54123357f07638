package stretcher

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

const diagramFile = "docs/images/architecture.svg"

// The diagram of the packages has their imports. go generate draws it again.
func TestArchitectureDiagram(t *testing.T) {
	got := diagram(t)
	if *update {
		if err := os.WriteFile(diagramFile, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(diagramFile); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s does not have the imports of the packages (%v): run go generate", diagramFile, err)
	}
}

// diagramSteps are the columns of the diagram, by the order of docs/architecture.md.
var diagramSteps = []struct {
	data, form string
	column     float64
}{
	{"event", "stdin", 0}, {"manifest", "YAML", 1}, {"object", "bytes", 2}, {"archive", "index", 3}, {"strategy", "dest", 4.5}, {"commands", "post, success", 6},
}

// diagramPlaces are the column and the row of each package. A package stands below the
// step that it works for.
var diagramPlaces = map[string][2]float64{
	"eventinput": {0, 0}, "state": {0, 1}, "metrics": {0, 2},
	"signature": {1, 0}, "envtemplate": {1, 1}, "yamlfields": {1, 2},
	"incremental": {2, 0}, "fetch": {2, 1}, "allowlist": {2, 2}, "checksum": {2, 3}, "destlock": {2, 4},
	"archive": {3, 1}, "gzip": {3, 2}, "seekable": {3, 3},
	"releases": {4, 0}, "treesync": {4, 1}, "destcheck": {4, 2}, "rsyncfilter": {4, 3},
	"rsync": {5, 1}, "rsyncoutput": {5, 2}, "preview": {5, 3},
	"runlog": {6, 0}, "proc": {6, 1},
	"upload": {2, 5}, "pack": {3, 5},
}

// diagramShared are the packages that nearly all others import. A mark in the box of a
// package stands for that, because lines would hide the others.
var diagramShared = []struct{ name, colour string }{{"unixfs", "#3b82c4"}, {"progress", "#3d9a5f"}, {"redact", "#c9772b"}}

const (
	diagramCell, diagramRow  = 140.0, 62.0
	diagramBoxW, diagramBoxH = 112.0, 34.0
	diagramLeft, diagramTop  = 24.0, 96.0
	diagramHeight            = 520.0
)

// diagramColours are those of the lines that leave a column, so that they can be told apart.
var diagramColours = []string{"#6b7280", "#6b7280", "#3b82c4", "#8a63d2", "#c2477f", "#c9772b", "#3d9a5f"}

func diagram(t *testing.T) []byte {
	t.Helper()
	var lines, boxes strings.Builder
	root := importsOf(t, ".")
	for _, dir := range packageDirs(t) {
		name, ok := strings.CutPrefix(dir, "internal/")
		if !ok || strings.HasSuffix(name, "test") || diagramMark(name) >= 0 {
			continue
		}
		place, ok := diagramPlaces[name]
		if !ok {
			t.Errorf("diagramPlaces has no place for %s", dir)
			continue
		}
		x, y := diagramAt(place)
		class := "b"
		if slices.Contains(root, dir) {
			class = "b r"
		}
		diagramBox(&boxes, class, name, x, y)
		imports := importsOf(t, dir)
		slices.Sort(imports)
		marks := 0.0
		for _, imported := range slices.Compact(imports) {
			imported = strings.TrimPrefix(imported, "internal/")
			if i := diagramMark(imported); i >= 0 {
				fmt.Fprintf(&boxes, `<circle cx="%g" cy="%g" r="4" fill="%s"/>`+"\n", x+diagramBoxW-9-11*marks, y+diagramBoxH, diagramShared[i].colour)
				marks++
			} else if to, ok := diagramPlaces[imported]; ok {
				diagramLine(&lines, place, to)
			}
		}
	}
	width := 2*diagramLeft + 6*diagramCell + diagramBoxW
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%g" height="%g" viewBox="0 0 %[1]g %[2]g" role="img" aria-label="The way of the data through the packages, and which package imports which">
<style>
text{font:13px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;fill:#1f2328;text-anchor:middle}
.b{fill:#ffffff;stroke:#8c959f}.r{stroke:#1f4e79;stroke-width:2}.d{fill:#1f4e79}.t{fill:#ffffff;font-weight:bold}.s{fill:#d5e3f0;font-size:11px}.n{text-anchor:start;font-size:12px;fill:#59636e}
.bg{fill:#f6f8fa}.l{fill:none;stroke-width:1.4}.f{stroke:#59636e;stroke-width:2;fill:none}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.b{fill:#161b22;stroke:#6e7681}.r{stroke:#79a8d8}.bg{fill:#0d1117}.n{fill:#9198a1}.f{stroke:#9198a1}}
</style>
<defs>`, width, diagramHeight)
	for _, colour := range slices.Compact(slices.Sorted(slices.Values(append(diagramColours, "#59636e")))) {
		fmt.Fprintf(&b, `<marker id="a%s" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0,0L8,4L0,8z" fill="%[2]s"/></marker>`, colour[1:], colour)
	}
	fmt.Fprintf(&b, "</defs>\n<rect class=\"bg\" width=\"100%%\" height=\"100%%\" rx=\"8\"/>\n")
	for i, step := range diagramSteps {
		x, _ := diagramAt([2]float64{step.column, 0})
		fmt.Fprintf(&b, `<rect class="d" x="%g" y="24" width="%g" height="46" rx="23"/><g transform="translate(%g)"><text class="t" y="44">%s</text><text class="s" y="60">%s</text></g>`+"\n", x, diagramBoxW, x+diagramBoxW/2, step.data, step.form)
		if i > 0 {
			before, _ := diagramAt([2]float64{diagramSteps[i-1].column, 0})
			fmt.Fprintf(&b, `<path class="f" d="M%g,47H%g" marker-end="url(#a59636e)"/>`+"\n", before+diagramBoxW+2, x-2)
		}
	}
	b.WriteString(lines.String() + boxes.String())
	_, packing := diagramAt(diagramPlaces["pack"])
	fmt.Fprintf(&b, `<text class="n" x="%g" y="%g">stretcher pack</text>`+"\n", diagramLeft, packing+22)
	fmt.Fprintf(&b, `<text class="n" x="%g" y="%g">Lines are imports. The root package imports those with a thick border.</text>`+"\n", diagramLeft, diagramHeight-26)
	for i, shared := range diagramShared {
		x := 470 + 190*float64(i)
		fmt.Fprintf(&b, `<circle cx="%g" cy="%g" r="4" fill="%s"/><text class="n" x="%g" y="%g">imports %s</text>`+"\n", x, diagramHeight-30, shared.colour, x+10, diagramHeight-26, shared.name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func diagramAt(place [2]float64) (x, y float64) {
	return diagramLeft + diagramCell*place[0], diagramTop + diagramRow*place[1]
}

// diagramMark returns which of the shared packages this is, -1 for none.
func diagramMark(name string) int {
	for i, shared := range diagramShared {
		if shared.name == name {
			return i
		}
	}
	return -1
}

func diagramBox(b *strings.Builder, class, name string, x, y float64) {
	fmt.Fprintf(b, `<rect class="%s" x="%g" y="%g" width="%g" height="%g" rx="5"/><text x="%g" y="%g">%s</text>`+"\n", class, x, y, diagramBoxW, diagramBoxH, x+diagramBoxW/2, y+22, name)
}

// diagramLine draws an import: down within a column, else from side to side.
func diagramLine(b *strings.Builder, from, to [2]float64) {
	x, y := diagramAt(from)
	tx, ty := diagramAt(to)
	colour := diagramColours[int(from[0])]
	var path string
	switch {
	case from[0] == to[0] && to[1]-from[1] == 1:
		path = fmt.Sprintf("M%g,%gV%g", x+diagramBoxW/2, y+diagramBoxH, ty)
	case from[0] == to[0] && to[1]-from[1] == -1:
		path = fmt.Sprintf("M%g,%gV%g", x+diagramBoxW/2, y, ty+diagramBoxH)
	case from[0] == to[0]: // around what is between
		path = fmt.Sprintf("M%g,%gC%g,%g %g,%g %g,%g", x, y+diagramBoxH/2, x-24, y+diagramBoxH/2, x-24, ty+diagramBoxH/2, tx, ty+diagramBoxH/2)
	default:
		sx, ex := x+diagramBoxW, tx
		bend := 26.0
		if to[0] < from[0] {
			sx, ex, bend = x, tx+diagramBoxW, -bend
		}
		path = fmt.Sprintf("M%g,%gC%g,%g %g,%g %g,%g", sx, y+diagramBoxH/2, sx+bend, y+diagramBoxH/2, ex-bend, ty+diagramBoxH/2, ex, ty+diagramBoxH/2)
	}
	fmt.Fprintf(b, `<path class="l" stroke="%s" d="%s" marker-end="url(#a%s)"/>`+"\n", colour, path, colour[1:])
}
