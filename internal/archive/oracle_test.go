package archive_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/fujiwara/stretcher/internal/tartest"
)

// tarOf joins parts of a tar, pads each to whole blocks, and adds the end mark.
func tarOf(parts ...any) []byte {
	var b []byte
	for _, part := range parts {
		b = append(b, fmt.Sprintf("%s", part)...)
		b = append(b, make([]byte, -len(b)&511)...)
	}
	return append(b, make([]byte, 1024)...)
}

// pax returns a header of a type that has records: keys and values by turns.
func pax(typ byte, records ...string) []byte {
	var b string
	for i := 0; i < len(records); i += 2 {
		b += tartest.PAXRecord(records[i], records[i+1])
	}
	return paxData(typ, b)
}

func paxData(typ byte, data string) []byte {
	return append(tartest.RawHeader("PaxHeaders/x", typ, int64(len(data))), data...)
}

func file(name, body string) []byte {
	return append(tartest.RawHeader(name, tar.TypeReg, int64(len(body))), body...)
}

// with returns a header with other bytes at an offset.
func with(h []byte, offset int, field string) []byte {
	return tartest.WithField(bytes.Clone(h), offset, field)
}

func longName(typ byte, name string) []byte {
	return with(append(tartest.RawHeader("././@LongLink", typ, int64(len(name))), name...), 257, "ustar  \x00")
}

func base256(n int64, width int) string {
	b := make([]byte, width)
	if n < 0 {
		for i := range b {
			b[i] = 0xff
		}
	}
	binary.BigEndian.PutUint64(b[width-8:], uint64(n))
	if n >= 0 {
		b[0] = 0x80
	}
	return string(b)
}

// Archives as other programs write them give the tree that GNU tar extracts,
// and what tar refuses is an error.
func TestHeadersLikeTar(t *testing.T) {
	t.Parallel()
	a := file("a", "first\n")
	short := file("short", "x\n")
	gnu := func(h []byte) []byte { return with(h, 257, "ustar  \x00") }
	v7 := func(h []byte) []byte { return with(h, 257, strings.Repeat("\x00", 255)) }
	head := tartest.RawHeader
	map10 := "1\n0\n5\n" + strings.Repeat("\x00", 506) + "12345"
	for _, test := range []struct {
		name string
		data []byte
	}{
		{"a NUL in linkpath", tarOf(a, pax('x', "linkpath", "target\x00\x01junk"), tartest.WithLink(head("link", '2', 0), "short"))},
		{"a NUL in path", tarOf(a, pax('x', "path", "okname\x00/../x"), short)},
		{"PAX header padded with NULs", tarOf(a, paxData('x', tartest.PAXRecord("path", "okname")+strings.Repeat("\x00", 400)), short)},
		{"PAX header of NULs", tarOf(a, paxData('x', strings.Repeat("\x00", 40)), short)},
		{"empty PAX header", tarOf(a, paxData('x', ""), short)},
		{"Solaris PAX header", tarOf(a, pax('X', "path", "dir/real-name"), short)},
		{"PAX record of 1.2 MB", tarOf(a, pax('x', "LIBARCHIVE.xattr.x", strings.Repeat("A", 1200000), "path", "okname"), short)},
		{"long comment key", tarOf(a, pax('x', strings.Repeat("k", 100), "v", "path", "okname"), short)},
		{"blanks in PAX records", tarOf(a, paxData('x', " 15 path=fname\n\x00"), short)},
		{"two PAX headers", tarOf(a, pax('x', "path", "one"), pax('x', "mtime", "5"), short)},
		{"PAX and long name", tarOf(a, pax('x', "path", "by-pax"), longName('L', "by-gnu\x00"), gnu(file("short", "x")))},
		{"long name and PAX", tarOf(a, longName('L', "by-gnu\x00"), pax('x', "path", "by-pax"), short)},
		{"PAX header at the end", tarOf(a, pax('x', "path", "by-pax"))},
		{"duplicate records", tarOf(a, pax('x', "path", "one", "path", "two", "mtime", "1", "mtime", "2"), short)},
		{"hdrcharset", tarOf(a, pax('x', "hdrcharset", "BINARY", "path", "\xff\xfe"), short)},
		{"size record", tarOf(a, pax('x', "size", "4"), head("short", '0', 0), "1234")},
		{"size record that is smaller", tarOf(a, pax('x', "size", "4"), file("short", "123456"))},
		{"size record is no number", tarOf(a, pax('x', "size", "4x"), head("short", '0', 0), "1234")},
		{"ids", tarOf(a, pax('x', "uid", "1234", "gid", "2345"), with(short, 265, "daemon\x00"))},
		{"names in records", tarOf(a, pax('x', "uname", "daemon", "gname", "daemon"), short)},
		{"names in the block", tarOf(a, with(with(short, 265, "daemon"), 297, "daemon"))},
		{"names in an old block", tarOf(a, with(v7(file("short", "x")), 265, "daemon"))},
		{"id is negative", tarOf(a, pax('x', "uid", "-5"), short)},
		{"id is empty", tarOf(a, pax('x', "uid", ""), short)},
		{"path is empty", tarOf(a, pax('x', "path", ""), short)},
		{"linkpath is empty", tarOf(a, pax('x', "linkpath", ""), tartest.WithLink(head("link", '2', 0), "short"))},
		{"linkpath of a hard link", tarOf(a, pax('x', "linkpath", "a"), tartest.WithLink(head("link", '1', 0), "short"))},
		{"time with an exponent", tarOf(a, pax('x', "mtime", "1e-05"), short)},
		{"time with a fraction", tarOf(a, pax('x', "mtime", "1000000000.1234567899"), short)},
		{"time with a dot", tarOf(a, pax('x', "mtime", "1000000000."), short)},
		{"negative time", tarOf(a, pax('x', "mtime", "-5.25"), short)},
		{"negative time, many digits", tarOf(a, pax('x', "mtime", "-5.0000000001"), short)},
		{"time is a word", tarOf(a, pax('x', "mtime", "now"), short)},
		{"time is a dot", tarOf(a, pax('x', "mtime", ".5"), short)},
		{"time is out of range", tarOf(a, pax('x', "mtime", "99999999999999999999"), short)},
		{"atime is a word", tarOf(a, pax('x', "atime", "now"), short)},
		{"record without newline", tarOf(a, paxData('x', "12 path=abcd"), short)},
		{"record without equal sign", tarOf(a, paxData('x', "9 pathab\n"), short)},
		{"record without length", tarOf(a, paxData('x', "path=abcd\n"), short)},
		{"record without blank", tarOf(a, paxData('x', "12path=abcd\n"), short)},
		{"record that is too long", tarOf(a, paxData('x', "99 path=abcd\n"), short)},
		{"record that is too short", tarOf(a, paxData('x', "3 path=abcd\n"), short)},
		{"global path", tarOf(pax('g', "path", "globalname"), short)},
		{"global and own records", tarOf(pax('g', "mtime", "77", "uid", "9"), pax('x', "mtime", "88"), a, short)},
		{"two global headers", tarOf(pax('g', "mtime", "77"), pax('g', "uid", "9"), a, short)},
		{"global comment", tarOf(pax('g', "comment", "0123456789"), a)},
		{"long name of odd length", tarOf(a, longName('L', strings.Repeat("n", 151)+"\x00"), gnu(file("short", "x")))},
		{"long name without NUL", tarOf(a, longName('L', "dir/abc"), gnu(file("short", "x")))},
		{"long name is empty", tarOf(a, longName('L', "\x00"), gnu(file("short", "x")))},
		{"long link is empty", tarOf(a, longName('K', "\x00"), gnu(tartest.WithLink(head("link", '2', 0), "a")))},
		{"long name with NULs", tarOf(a, longName('L', "dir/abc\x00\x00\x00junk"), gnu(file("short", "x")))},
		{"two long names", tarOf(a, longName('L', "one\x00"), longName('L', "two\x00"), gnu(file("short", "x")))},
		{"long link of odd length", tarOf(a, longName('K', strings.Repeat("t", 513)), gnu(head("link", '2', 0)))},
		{"long link and name", tarOf(a, longName('K', "target\x00"), longName('L', "name\x00"), gnu(head("link", '2', 0)))},
		{"name too long for a file", tarOf(a, longName('L', strings.Repeat("n", 300)+"\x00"), gnu(file("short", "x")))},
		{"prefix", tarOf(a, with(short, 345, "some/dir"))},
		{"prefix in GNU's format", tarOf(a, with(gnu(file("short", "x")), 345, "some/dir"))},
		{"prefix and name are full", tarOf(a, with(file(strings.Repeat("n", 100), "x"), 345, strings.Repeat("p", 155)))},
		{"V7", tarOf(a, v7(file("short", "x")))},
		{"V7 directory", tarOf(a, v7(with(head("dir/", 0, 0), 156, "\x00")))},
		{"directory with a size", tarOf(a, head("dir/", '5', 1000), short)},
		{"ustar with version of NULs", tarOf(a, with(file("short", "x"), 263, "\x00\x00"))},
		{"base-256 size", tarOf(a, with(head("short", '0', 0), 124, base256(5, 12)), "12345")},
		{"base-256 ids", tarOf(a, with(with(short, 108, base256(3000000, 8)), 116, base256(4000000, 8)))},
		{"base-256 id is negative", tarOf(a, with(short, 108, base256(-2, 8)))},
		{"base-256 time", tarOf(a, with(short, 136, base256(5000000000, 12)))},
		{"base-256 negative time", tarOf(a, with(short, 136, base256(-5000000, 12)))},
		{"base-256 with another mark", tarOf(a, with(short, 136, "\x81"+strings.Repeat("\x00", 11)))},
		{"base-256 out of range", tarOf(a, with(short, 124, "\x80"+strings.Repeat("\x7f", 11)))},
		{"octal with spaces", tarOf(a, with(with(short, 100, "   644 \x00"), 136, " 7346545000 "))},
		{"octal without terminator", tarOf(a, with(short, 136, "007346545000"))},
		{"octal after a NUL", tarOf(a, with(short, 100, "\x00000600\x00"))},
		{"mode of NULs", tarOf(a, with(short, 100, strings.Repeat("\x00", 8)))},
		{"mode of blanks", tarOf(a, with(short, 100, "        "))},
		{"mode with a type", tarOf(a, with(short, 100, "0100644\x00"))},
		{"mode is negative", tarOf(a, with(short, 100, base256(-72057386970106880|0o600, 8)))},
		{"mode is large", tarOf(a, with(short, 100, base256(1<<40|0o600, 8)))},
		{"mode is a word", tarOf(a, with(short, 100, "rw-rw-rw"))},
		{"uid is a word", tarOf(a, with(short, 108, "0nobody\x00"))},
		{"uid is a word, user is known", tarOf(a, with(with(short, 108, "0nobody\x00"), 265, "daemon\x00"))},
		{"gid is negative, group is known", tarOf(a, with(with(short, 116, base256(-2, 8)), 297, "daemon\x00"))},
		{"size of NULs", tarOf(a, with(head("short", '0', 0), 124, strings.Repeat("\x00", 12)))},
		{"size is a word", tarOf(a, with(head("short", '0', 0), 124, "none        "))},
		{"signed checksum", tarOf(a, tartest.WithSignedSum(file("sh\xf6rt", "x")))},
		{"wrong checksum", tarOf(a, append(head("s", '0', 0)[:148:148], append([]byte("000001\x00 "), head("s", '0', 0)[156:]...)...))},
		{"contiguous", tarOf(a, with(short, 156, "7"))},
		{"unknown type", tarOf(a, with(short, 156, "Z"))},
		{"unknown type of Solaris", tarOf(with(short, 156, "A"), a)},
		{"volume label", tarOf(gnu(head("label", 'V', 0)), a)},
		{"multivolume", tarOf(a, gnu(with(file("short", "x"), 156, "M")))},
		{"dump directory", tarOf(gnu(with(file("dir/", "Ya\x00\x00"), 156, "D")), a)},
		{"file with a slash", tarOf(a, head("short/", '0', 0))},
		{"fifo", tarOf(head("fifo", '6', 0), a)},
		{"hard link with a size", tarOf(a, tartest.WithLink(head("link", '1', 6), "a"), short)},
		{"symlink with a size", tarOf(a, tartest.WithLink(head("link", '2', 6), "a"), short)},
		{"symlink to nothing", tarOf(a, head("link", '2', 0))},
		{"S in the format of POSIX", tarOf(a, with(short, 156, "S"))},
		{"sparse 0.0", tarOf(pax('x', "GNU.sparse.size", "5000", "GNU.sparse.numblocks", "2", "GNU.sparse.offset", "512", "GNU.sparse.numbytes", "3", "GNU.sparse.offset", "5000", "GNU.sparse.numbytes", "0"), file("short", "123"), a)},
		{"sparse 0.1", tarOf(pax('x', "GNU.sparse.name", "name", "GNU.sparse.size", "5000", "GNU.sparse.numblocks", "1", "GNU.sparse.map", "512,3", "path", "other"), file("short", "123"), a)},
		{"sparse 0.1, map before its length", tarOf(pax('x', "GNU.sparse.map", "512,3", "GNU.sparse.numblocks", "1", "GNU.sparse.size", "5000"), file("short", "123"), a)},
		{"sparse 0.1, excess", tarOf(pax('x', "GNU.sparse.size", "5000", "GNU.sparse.numblocks", "1", "GNU.sparse.map", "0,1,512,1"), file("short", "12"), a)},
		{"sparse 0.1, odd", tarOf(pax('x', "GNU.sparse.size", "5000", "GNU.sparse.numblocks", "1", "GNU.sparse.map", "0,1,5"), file("short", "12"), a)},
		{"sparse 0.1, more stored", tarOf(pax('x', "GNU.sparse.size", "5000", "GNU.sparse.numblocks", "1", "GNU.sparse.map", "512,3"), file("short", strings.Repeat("x", 1000)), a)},
		{"sparse 1.0", tarOf(pax('x', "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", "name", "GNU.sparse.realsize", "5000"), file("GNUSparseFile.1/name", map10), a)},
		{"sparse 1.0 over several blocks", tarOf(pax('x', "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "5000"),
			file("short", "200\n"+strings.Repeat("0\n0\n", 199)+"8\n3\n"+strings.Repeat("\x00", 1024-4-4*199-4)+"123"), a)},
		{"GNU sparse", tarOf(tartest.WithGNUSparse(head("short", 'S', 3), 5000, 512, 3), "123", a)},
		{"sparse 1.0 without segments", tarOf(pax('x', "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "5000"), file("short", "0\n"+strings.Repeat("\x00", 510)), a)},
		{"sparse 1.0, number of 19 digits", tarOf(pax('x', "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "5000"), file("short", "1\n0000000000000000512\n5\n"+strings.Repeat("\x00", 488)+"12345"), a)},
		{"sparse 1.0, number of 20 digits", tarOf(pax('x', "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "5000"), file("short", "1\n00000000000000000512\n5\n"+strings.Repeat("\x00", 487)+"12345"), a)},
		{"sparse 1.0, number with a sign", tarOf(pax('x', "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "5000"), file("short", "1\n+512\n5\n"+strings.Repeat("\x00", 503)+"12345"), a)},
		{"sparse 1.0, negative count", tarOf(pax('x', "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "5000"), file("short", "-1\n"+strings.Repeat("\x00", 509)+"12345"), a)},
		{"sparse 1.0, empty last segment", tarOf(pax('x', "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "5000"), file("short", "1\n4000\n0\n"+strings.Repeat("\x00", 503)), a)},
		{"sparse 0.1 without segments", tarOf(pax('x', "GNU.sparse.size", "5000", "GNU.sparse.numblocks", "0", "GNU.sparse.map", ""), file("short", ""), a)},
		{"sparse 0.0 without segments", tarOf(pax('x', "GNU.sparse.size", "5000", "GNU.sparse.numblocks", "0"), file("short", ""), a)},
		{"sparse 1.0, segment beyond the end", tarOf(pax('x', "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "5000"), file("short", "1\n6000\n5\n"+strings.Repeat("\x00", 503)+"12345"), a)},
		{"GNU sparse, segment beyond the end", tarOf(tartest.WithGNUSparse(head("short", 'S', 3), 5000, 6000, 3), "123", a)},
		{"sparse 1.0, segment that is too long", tarOf(pax('x', "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "5000"), file("short", "1\n0\n600\n"+strings.Repeat("\x00", 504)+"12345"), a)},
		{"sparse size without a map", tarOf(pax('x', "GNU.sparse.size", "5000"), file("short", "123"), a)},
		{"sparse realsize without a map", tarOf(pax('x', "GNU.sparse.realsize", "5000"), file("short", "123"), a)},
		{"GNU sparse without segments", tarOf(with(tartest.WithGNUSparse(head("short", 'S', 0), 5000, 0, 0), 386, strings.Repeat("\x00", 24)), a)},
		{"GNU sparse, empty segment", tarOf(tartest.WithGNUSparse(head("short", 'S', 0), 5000, 5000, 0), a)},
		{"trailing garbage", append(tarOf(a, short), "garbage"...)},
		{"lone zero block", append(tarOf(a)[:1024+512], tarOf(short)...)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if test.name == "mode of NULs" && os.Geteuid() != 0 {
				t.Skip("an ordinary user cannot read the file without any permission to compare it")
			}
			want, got := t.TempDir(), t.TempDir()
			tarErr := tartest.Extract(t, test.data, want)
			err := extract(t.Context(), t, test.data, got)
			switch {
			case tarErr == nil && err == nil:
				tartest.CompareTrees(t, want, got)
			case (err != nil) != (tarErr != nil):
				t.Errorf("%v; tar: %v", err, tarErr)
			}
		})
	}
}

// Some archives are refused because of a limit, which tar(1) does not have. The
// error says what to do.
func TestHeaderLimits(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		data []byte
		want string
	}{
		{"number", tarOf(pax('x', "size", strings.Repeat("0", 2000)), file("f", "")), "PAX record size has more than 1.0 KiB"},
		{"map", tarOf(pax('x', "GNU.sparse.map", strings.Repeat("0", 17<<20)), file("f", "")), "without -S"},
		{"records", tarOf(paxData('x', strings.Repeat("8 uid=1\n", 600000)), file("f", "")), "without -S"},
		{"segments in another order", tarOf(pax('x', "GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "5000"), file("short", "2\n1024\n512\n0\n3\n"+strings.Repeat("\x00", 496)+strings.Repeat("x", 515))), "without -S"},
		{"segments that are not whole blocks", tarOf(pax('x', "GNU.sparse.size", "5000", "GNU.sparse.numblocks", "2", "GNU.sparse.map", "0,3,512,3"), file("f", "123456")), "without -S"},
	} {
		err := extract(t.Context(), t, test.data, t.TempDir())
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "corrupt") {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestMain(m *testing.M) {
	os.Setenv("LC_ALL", "C")
	os.Exit(m.Run())
}
