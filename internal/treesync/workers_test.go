package treesync

import (
	"slices"
	"testing"
)

// Neither many names nor many bytes are work for one worker.
func TestBatches(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		sizes []int64
		want  []int // how many names each batch has
	}{
		{nil, nil},
		{slices.Repeat([]int64{1}, 40), []int{16, 16, 8}},
		{slices.Repeat([]int64{2 << 20}, 3), []int{1, 1, 1}},
		{slices.Repeat([]int64{300 << 10}, 10), []int{4, 4, 2}},
		{[]int64{5, 1 << 30, 5, 0, 5, 1 << 30, 5}, []int{2, 4, 1}},
	} {
		var got []int
		var all []int64
		for batch := range batches(test.sizes, func(size int64) int64 { return size }) {
			got = append(got, len(batch))
			all = append(all, batch...)
		}
		if !slices.Equal(got, test.want) || !slices.Equal(all, test.sizes) {
			t.Errorf("batches of %d for the sizes %d", got, test.sizes)
		}
	}
}
