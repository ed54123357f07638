package destcheck

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// ParseMode returns the mode that a text of a manifest stands for: an integer of YAML
// 1.1, in which a leading 0 makes it octal (https://yaml.org/type/int.html). A text
// in quotes is an error. warning is "" unless the mode is most likely not the one
// that was meant. Both the warning and the error are one line that begins with
// "dest_mode".
func ParseMode(text string, quoted bool) (mode fs.FileMode, warning string, err error) {
	if quoted {
		return 0, "", fmt.Errorf("dest_mode %.20q is a text: write it without quotes", text)
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 0, 64)
	if err != nil || n < 0 || n > 07777 {
		return 0, "", fmt.Errorf("dest_mode %.20q is not a file mode: write it in octal, as 0755", text)
	}
	mode = fs.FileMode(n)
	// A decimal number is most likely meant to be octal if it looks like a mode, but
	// stands for one that nobody wants for a directory, where the permissions to read
	// and write are of no use without x: 755 is 01363, and 500 is 0764, but 511 is
	// 0777.
	octalDigits := len(text) >= 2 && len(text) <= 4 && text[0] != '0' && strings.Trim(text, "01234567") == ""
	wanted := mode <= 0777 && mode&0700 == 0700 && (mode&070 == 0 || mode&010 != 0) && (mode&07 == 0 || mode&01 != 0)
	if octalDigits && !wanted {
		warning = fmt.Sprintf("dest_mode %s is a decimal number and means %#o; write 0%[1]s if that was meant", text, uint32(mode))
	}
	return mode, warning, nil
}

// ModeBits returns a mode as the bits of chmod(2). The set-user-ID, set-group-ID
// and sticky bits may be those of chmod(2) or of fs.FileMode; the type of the file
// is ignored if it is that of a directory. The error is as that of ParseMode.
func ModeBits(mode fs.FileMode) (fs.FileMode, error) {
	bits := mode &^ fs.ModeDir
	for _, b := range []struct{ is, means fs.FileMode }{{fs.ModeSetuid, 04000}, {fs.ModeSetgid, 02000}, {fs.ModeSticky, 01000}} {
		if bits&b.is != 0 {
			bits = bits&^b.is | b.means
		}
	}
	if bits > 07777 {
		return 0, fmt.Errorf("dest_mode %#o is not a file mode: use the bits of chmod(2), such as 0755", uint32(mode))
	}
	return bits, nil
}
