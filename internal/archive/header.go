package archive

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// blockSize is the unit of a tar in bytes: a header is a block, and data is
// padded to whole blocks ("Basic Tar Format" in the GNU tar manual).
const blockSize = 512

// Types of blocks and entries ("Basic Tar Format" in the GNU tar manual; pax in
// POSIX.1, "ustar Interchange Format").
const (
	typeRegular     = '0'
	typeOldRegular  = 0
	typeLink        = '1'
	typeSymlink     = '2'
	typeChar        = '3'
	typeBlock       = '4'
	typeDir         = '5'
	typeFifo        = '6'
	typeContiguous  = '7'
	typeDumpDir     = 'D' // a directory of an incremental backup; its data lists the names in it
	typeMultiVolume = 'M' // the rest of a file that begins on another volume
	typeSparse      = 'S'
	typeVolumeLabel = 'V' // the name of the archive, not a file

	// These extend or override the headers that follow them.
	typeLongName   = 'L'
	typeLongLink   = 'K'
	typePAX        = 'x'
	typeSolarisPAX = 'X' // of the tar of Solaris, before POSIX standardized it
	typeGlobalPAX  = 'g'
)

// header is what a tar says about an entry: its header block, with everything
// applied that extends or overrides it. It is decoded as tar(1) does.
//
// This package does not use archive/tar, which makes garbage of several hundred
// bytes for an entry, refuses much that tar(1) extracts, and does not tell where
// the parts of a sparse file are.
type header struct {
	block [blockSize]byte // the entry's own header block

	name, target []byte // they are valid until the next header is read
	typ          byte
	mode         uint32
	user, group  []byte
	uid, gid     int
	sec          int64
	nsec         int32
	major, minor uint32
	size         int64     // of the data in the tar
	fileSize     int64     // of the file, with the holes of a sparse one
	segments     []Segment // of a sparse file, nil for others

	gnu    bool // in the format of GNU tar
	sparse sparseRecords

	nameBuf []byte // for a name that consists of two fields
}

// Fields of a header block.
func (h *header) field(start, length int) []byte { return h.block[start : start+length] }
func (h *header) blockType() byte                { return h.block[156] }

// text returns a text field, which ends at a NUL or where the field does.
func (h *header) text(start, length int) []byte { return untilNUL(h.field(start, length)) }

func untilNUL(b []byte) []byte {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return b[:i]
	}
	return b
}

// checkSum reports whether the checksum of the block is right. It counts its own
// field as spaces. Some old programs sum up signed bytes.
func (h *header) checkSum() bool {
	const start, length = 148, 8
	recorded, err := parseOctal(h.field(start, length))
	if err != nil {
		return false
	}
	var unsigned, signed int64
	for _, c := range h.block {
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	for _, c := range h.field(start, length) {
		unsigned += ' ' - int64(c)
		signed += ' ' - int64(int8(c))
	}
	return recorded == unsigned || recorded == signed
}

// dataSize returns how much data follows the block.
func (h *header) dataSize() (int64, error) { return h.number("size", 124, 12, math.MaxInt64) }

// decode decodes the fields of the block. What it does not set, the records of
// PAX headers set.
func (h *header) decode() (err error) {
	ustar := string(h.field(257, 6)) == "ustar\x00"
	h.gnu = string(h.field(257, 8)) == "ustar  \x00"
	h.typ = h.blockType()
	h.name, h.target = h.text(0, 100), h.text(157, 100)
	if ustar && h.block[345] != 0 {
		h.nameBuf = append(h.nameBuf[:0], h.text(345, 155)...)
		h.nameBuf = append(append(h.nameBuf, '/'), h.name...)
		h.name = h.nameBuf
	}
	h.sparse = sparseRecords{numbers: h.sparse.numbers[:0]}
	number := func(name string, start, length int, limit int64) (n int64) {
		if err == nil {
			n, err = h.number(name, start, length, limit)
		}
		return n
	}
	signed := func(name string, start, length int) (n int64) {
		if err == nil {
			if n, err = parseNumber(h.field(start, length)); err != nil {
				err = fmt.Errorf("the field %s: %w", name, err)
			}
		}
		return n
	}
	id := func(name string, start int, owner []byte) int {
		n, wrong := h.number(name, start, 8, maxID)
		switch {
		case wrong == nil:
			return int(n)
		case len(owner) > 0: // tar(1) does not look at the number if it knows the name
			return NoID
		case err == nil:
			err = wrong
		}
		return 0
	}
	h.size = number("size", 124, 12, math.MaxInt64)
	h.mode = uint32(signed("mode", 100, 8)) & 0o7777
	h.sec, h.nsec = signed("mtime", 136, 12), 0
	h.user, h.group = nil, nil
	h.major, h.minor = 0, 0
	if ustar || h.gnu { // older formats have nothing here
		h.user, h.group = h.text(265, 32), h.text(297, 32)
		if h.typ == typeChar || h.typ == typeBlock {
			h.major = uint32(number("devmajor", 329, 8, math.MaxUint32))
			h.minor = uint32(number("devminor", 337, 8, math.MaxUint32))
		}
	}
	h.uid, h.gid = id("uid", 108, h.user), id("gid", 116, h.group)
	return err
}

// maxID is the largest user and group id. chown(2) takes the number above it as
// a request to keep the owner.
const maxID = math.MaxUint32 - 1

// number returns the number in a field, which may be from 0 to limit.
func (h *header) number(name string, start, length int, limit int64) (int64, error) {
	n, err := parseNumber(h.field(start, length))
	if err == nil && (n < 0 || n > limit) {
		err = fmt.Errorf("%d is impossible", n)
	}
	if err != nil {
		return 0, fmt.Errorf("the field %s: %w", name, err)
	}
	return n, nil
}

// parseNumber parses a number in a header block: octal digits or, for negative
// numbers and those that need more digits than the field has, GNU's base-256
// encoding, which is two's complement after a first byte of 0x80 or 0xff.
func parseNumber(field []byte) (int64, error) {
	first := field[0]
	if first != 0x80 && first != 0xff {
		return parseOctal(field)
	}
	n := int64(int8(first<<1) >> 1) // the sign, without the mark
	for _, c := range field[1:] {
		if n != n<<8>>8 {
			return 0, fmt.Errorf("%x is too large", field)
		}
		n = n<<8 | int64(c)
	}
	return n, nil
}

// parseOctal parses the octal digits in a field. A field of NULs is 0.
func parseOctal(field []byte) (int64, error) {
	rest := field
	if rest[0] == 0 { // some old programs write one before the digits
		rest = rest[1:]
	}
	for len(rest) > 0 && isSpace(rest[0]) {
		rest = rest[1:]
	}
	if len(rest) == 0 {
		return 0, errors.New("blanks in the place of a number")
	}
	var n int64
	for len(rest) > 0 && '0' <= rest[0] && rest[0] <= '7' {
		n = n<<3 | int64(rest[0]-'0') // a field has at most 12 digits
		rest = rest[1:]
	}
	if len(rest) > 0 && rest[0] != 0 && !isSpace(rest[0]) {
		return 0, fmt.Errorf("%q is not a number", field)
	}
	return n, nil
}

// isSpace is isspace(3) in the C locale.
func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

// hasData reports whether data can follow the header. Types without it may have
// a size, too, which tar(1) ignores.
func (h *header) hasData() bool {
	switch h.typ {
	case typeLink, typeSymlink, typeChar, typeBlock, typeDir, typeFifo:
		return false
	}
	return !h.isOldDir()
}

// isOldDir reports whether the entry is a directory as old versions of tar write
// it: a regular file with a slash at the end of its name.
func (h *header) isOldDir() bool {
	switch h.typ {
	case typeRegular, typeOldRegular, typeContiguous:
		return bytes.HasSuffix(h.name, []byte("/"))
	}
	return false
}

// device returns the number of a device, as in st_rdev of stat(2).
func (h *header) device() uint64 { return unix.Mkdev(h.major, h.minor) }
