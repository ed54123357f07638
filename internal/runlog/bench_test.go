package runlog

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/fujiwara/stretcher/internal/proc"
)

// The log must not slow down a command that prints much.
func BenchmarkOutput(b *testing.B) {
	for name, line := range map[string]string{
		"ascii":   "drwxr-xr-x releases/app-1.2.3/assets/%06d.js\n",
		"utf8":    "リリース/アプリ-1.2.3/アセット/%06d.js\n",
		"escapes": "\x1b[32mok\x1b[0m releases/app-1.2.3/assets/%06d.js\n",
	} {
		for _, format := range []string{"text", JSON} {
			b.Run(name+"/"+format, func(b *testing.B) {
				var chunk bytes.Buffer
				for n := 0; chunk.Len() < 32<<10; n++ {
					fmt.Fprintf(&chunk, line, n)
				}
				l := New(io.Discard, new(bytes.Buffer), "INFO", format)
				w := proc.NewLineWriter(l.Output(Stream{"ls -lR", "stdout"}))
				b.SetBytes(int64(chunk.Len()))
				for b.Loop() {
					w.Write(chunk.Bytes())
				}
			})
		}
	}
}
