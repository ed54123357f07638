package stretcher

import (
	"bytes"
	"log"
)

// logOf returns what f logs, without dates and times.
func logOf(f func()) string {
	var b bytes.Buffer
	out, flags := log.Writer(), log.Flags()
	defer func() {
		log.SetOutput(out)
		log.SetFlags(flags)
	}()
	log.SetOutput(&b)
	log.SetFlags(0)
	f()
	return b.String()
}

// writerFunc is a writer that calls a function for each write.
type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}
