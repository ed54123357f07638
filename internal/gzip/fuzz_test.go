package gzip

import (
	"bytes"
	"compress/flate"
	stdgzip "compress/gzip"
	"encoding/binary"
	"hash/crc32"
	"io"
	"testing"
)

// maxFuzzed bounds the output of an input that expands without limit.
const maxFuzzed = 4 << 20

// A member is one of a gzip file, with a header that compress/gzip may not be
// able to write.
type member struct {
	data          []byte
	level         int // of compress/flate
	flags         byte
	extra         []byte // used if flags say so, as are the name and the comment
	name, comment string // without zero bytes
}

// pack returns the member in the format of RFC 1952.
func (m member) pack(t testing.TB) []byte {
	t.Helper()
	b := []byte{Magic[0], Magic[1], 8, m.flags, 1, 2, 3, 4, 0, 255}
	if m.flags&flagExtra != 0 {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(m.extra)))
		b = append(b, m.extra...)
	}
	if m.flags&flagName != 0 {
		b = append(append(b, m.name...), 0)
	}
	if m.flags&flagComment != 0 {
		b = append(append(b, m.comment...), 0)
	}
	if m.flags&flagHeaderSum != 0 {
		b = binary.LittleEndian.AppendUint16(b, uint16(crc32.ChecksumIEEE(b)))
	}
	out := bytes.NewBuffer(b)
	w, err := flate.NewWriter(out, m.level)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(m.data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return appendTrailer(out.Bytes(), m.data)
}

func appendTrailer(b, data []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(data))
	return binary.LittleEndian.AppendUint32(b, uint32(len(data)))
}

// FuzzReader compares with compress/flate what becomes of any deflate stream.
// It adds the header and the trailer, which no mutation gets right.
func FuzzReader(f *testing.F) {
	for _, data := range samples() {
		for _, level := range []int{1, 9, flate.HuffmanOnly} {
			packed := pack(f, data[:min(len(data), 2000)], level)
			f.Add(packed[10 : len(packed)-8])
		}
	}
	f.Fuzz(func(t *testing.T, deflated []byte) {
		in := bytes.NewReader(deflated)
		want, wantErr := io.ReadAll(io.LimitReader(flate.NewReader(in), maxFuzzed))
		if len(want) == maxFuzzed {
			return
		}
		file := []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff")
		file = append(file, deflated[:len(deflated)-in.Len()]...)
		if wantErr != io.ErrUnexpectedEOF {
			file = appendTrailer(file, want)
		}
		got, err := io.ReadAll(io.LimitReader(NewReader(bytes.NewReader(file)), maxFuzzed+1))
		switch {
		case (err != nil) != (wantErr != nil),
			err == nil && !bytes.Equal(got, want),
			wantErr == io.ErrUnexpectedEOF && err != wantErr && err != errCorrupt:
			t.Errorf("%d bytes, %v; compress/flate: %d bytes, %v", len(got), err, len(want), wantErr)
		}
	})
}

// FuzzFile compares with compress/gzip what becomes of any file.
func FuzzFile(f *testing.F) {
	packed := member{data: []byte("hello"), level: 6}.pack(f)
	f.Add(packed)
	f.Add(append(packed, packed...))
	f.Fuzz(func(t *testing.T, file []byte) {
		want, wantErr := readStd(file)
		got, err := io.ReadAll(io.LimitReader(NewReader(bytes.NewReader(file)), maxFuzzed))
		if len(got) == maxFuzzed || len(want) == maxFuzzed {
			return
		}
		if (err != nil) != (wantErr != nil) || err == nil && !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v; compress/gzip: %d bytes, %v", len(got), err, len(want), wantErr)
		}
	})
}

// readStd decompresses file with compress/gzip, except where our reader is to
// behave differently:
//
//   - an empty file is truncated;
//   - zeros may follow the last member, as gzip(1) allows;
//   - a flag that is reserved is an error, as RFC 1952 section 2.3.1.2 demands;
//   - a name or comment may be longer than 511 bytes.
func readStd(file []byte) (data []byte, err error) {
	if len(file) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	var z stdgzip.Reader
	for rest, first := file, true; len(rest) > 0; first = false {
		if !first && len(bytes.TrimLeft(rest, "\x00")) == 0 {
			break
		}
		if len(rest) > 3 && rest[3]&flagReserved != 0 {
			return data, stdgzip.ErrHeader
		}
		in := bytes.NewReader(shortenHeader(rest))
		if err := z.Reset(in); err != nil {
			return data, noEOF(err)
		}
		z.Multistream(false)
		more, err := io.ReadAll(io.LimitReader(&z, maxFuzzed-int64(len(data))))
		data = append(data, more...)
		if err != nil || len(data) == maxFuzzed {
			return data, err
		}
		rest = rest[len(rest)-in.Len():]
	}
	return data, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// shortenHeader returns file without the name and comment of its first member,
// if it can do so and keep the header valid or invalid, whichever it is.
func shortenHeader(file []byte) []byte {
	if len(file) < 10 {
		return file
	}
	end := 10
	flags := file[3]
	if flags&flagExtra != 0 {
		if len(file) < 12 {
			return file
		}
		end += 2 + int(binary.LittleEndian.Uint16(file[10:]))
	}
	texts := end
	for _, flag := range []byte{flagName, flagComment} {
		if flags&flag != 0 {
			zero := bytes.IndexByte(file[min(end, len(file)):], 0)
			if zero < 0 {
				return file // truncated
			}
			end += zero + 1
		}
	}
	header := append([]byte(nil), file[:min(texts, len(file))]...)
	if texts > len(file) {
		return file
	}
	header[3] &^= flagName | flagComment
	if flags&flagHeaderSum != 0 {
		if len(file) < end+2 || binary.LittleEndian.Uint16(file[end:]) != uint16(crc32.ChecksumIEEE(file[:end])) {
			return file
		}
		end += 2
		header = binary.LittleEndian.AppendUint16(header, uint16(crc32.ChecksumIEEE(header)))
	}
	return append(header, file[end:]...)
}

// FuzzMembers reads a file of two members, whose headers have what the fuzzer
// chooses, in pieces of any size, whole and cut anywhere.
func FuzzMembers(f *testing.F) {
	f.Add([]byte("hello, hello, hello"), uint16(5), int8(6), byte(flagHeaderSum|flagName), []byte("extra"), "name", "comment", uint8(3), uint16(17), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, split uint16, level int8, flags byte, extra []byte, name, comment string, zeros uint8, cut uint16, piece uint8) {
		half := min(int(split), len(data))
		first := member{
			data:    data[:half],
			level:   int(uint8(level)%12) - 2, // flate.HuffmanOnly to flate.BestCompression
			flags:   flags &^ flagReserved,
			extra:   extra[:min(len(extra), 0xffff)],
			name:    string(bytes.ReplaceAll([]byte(name), []byte{0}, nil)),
			comment: string(bytes.ReplaceAll([]byte(comment), []byte{0}, nil)),
		}
		second := first
		second.data, second.flags = data[half:], first.flags^0x1f
		file := first.pack(t)
		border := len(file)
		file = append(file, second.pack(t)...)
		whole := len(file)
		file = append(file, make([]byte, zeros)...)

		read := func(file []byte) ([]byte, error) {
			return io.ReadAll(NewReader(&pieces{file, int(piece) + 1}))
		}
		if got, err := read(file); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d of %d bytes, %v", len(got), len(data), err)
		}
		n := int(cut) % len(file)
		got, err := read(file[:n])
		switch {
		case n == border:
			if err != nil || !bytes.Equal(got, first.data) {
				t.Fatalf("cut between the members: %d of %d bytes, %v", len(got), len(first.data), err)
			}
		case n >= whole:
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("cut in the zeros: %d of %d bytes, %v", len(got), len(data), err)
			}
		case err != io.ErrUnexpectedEOF:
			t.Fatalf("cut at %d of %d: %v", n, len(file), err)
		}
	})
}

// pieces returns at most n bytes of data for each call of Read.
type pieces struct {
	data []byte
	n    int
}

func (r *pieces) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.data[:min(r.n, len(r.data))])
	r.data = r.data[n:]
	return n, nil
}
