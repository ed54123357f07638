package report

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// picture is a plot of the page.
type picture struct {
	file, alt string
	text      string // how to read it
	draw      func(*Report) ([]byte, error)
}

// errNotMeasured is why a plot is left out.
var errNotMeasured = errors.New("not measured")

var (
	grey      = color.NRGBA{0xb0, 0xb4, 0xba, 0xff}
	darkGrey  = color.NRGBA{0x6b, 0x72, 0x80, 0xff}
	blue      = color.NRGBA{0x1f, 0x6f, 0xb4, 0xff}
	lightBlue = color.NRGBA{0x7f, 0xb8, 0xe6, 0xff}
	faint     = color.NRGBA{0xd5, 0xd9, 0xde, 0xff}
)

// points returns figures of a part, one for each of the last parts of their names.
func (r *Report) points(part string, last []string, first ...string) ([]float64, error) {
	p := r.Part(part)
	if p == nil {
		return nil, errNotMeasured
	}
	var values []float64
	for _, name := range last {
		v, ok := p.Points[strings.Join(append(slices.Clone(first), name), ", ")]
		if !ok {
			return nil, errNotMeasured
		}
		values = append(values, v)
	}
	return values, nil
}

// newPlot returns an empty plot in the style of the page.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	sans := func(size vg.Length) font.Font { return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size} }
	for style, size := range map[*text.Style]vg.Length{
		&p.Title.TextStyle: 13, &p.Legend.TextStyle: 10,
		&p.X.Label.TextStyle: 11, &p.X.Tick.Label: 10, &p.Y.Label.TextStyle: 11, &p.Y.Tick.Label: 10,
	} {
		style.Font = sans(size)
	}
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.Padding, p.X.Label.Padding, p.Y.Label.Padding = 8, 4, 4
	p.Legend.Top, p.Legend.Padding = true, 3
	p.Legend.ThumbnailWidth = 18
	return p
}

// horizontals adds faint lines at the ticks of the vertical axis.
func horizontals(p *plot.Plot) {
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = nil, faint
	p.Add(grid)
}

// labels returns texts at places of a plot, in the style of p's ticks.
func labels(p *plot.Plot, at plotter.XYs, texts []string, offset vg.Point, x text.XAlignment) (*plotter.Labels, error) {
	l, err := plotter.NewLabels(plotter.XYLabels{XYs: at, Labels: texts})
	if err != nil {
		return nil, err
	}
	for i := range l.TextStyle {
		l.TextStyle[i] = p.X.Tick.Label
		l.TextStyle[i].Font.Size = 9
		l.TextStyle[i].XAlign, l.TextStyle[i].YAlign = x, text.YBottom
		if x == text.XLeft {
			l.TextStyle[i].YAlign = text.YCenter
		}
	}
	l.Offset = offset
	return l, nil
}

// svg draws plots side by side.
func svg(width, height vg.Length, plots ...*plot.Plot) ([]byte, error) {
	canvas := vgsvg.New(width, height)
	dc := draw.New(canvas)
	if len(plots) == 1 {
		plots[0].Draw(draw.Crop(dc, 8, -14, 8, -8))
	} else {
		tiles := draw.Tiles{Rows: 1, Cols: len(plots), PadX: 22, PadLeft: 8, PadRight: 14, PadTop: 8, PadBottom: 8}
		for i, p := range plots {
			p.Draw(tiles.At(dc, i, 0))
		}
	}
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return nil, err
	}
	// Fonts of the same widths, since the viewer may not have this one.
	return bytes.ReplaceAll(b.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:'Liberation Sans',Arial,Helvetica,sans-serif;")), nil
}

// drawTimes draws bars of the time that deployments take.
func drawTimes(r *Report) ([]byte, error) {
	changes := []string{"fresh", "unchanged", "1 % changed"}
	sides := []struct {
		name, legend string
		color        color.Color
	}{
		{"gzip, by hand", "the original's way: the stages by hand, tar.gz", grey},
		{"packed, by hand", "by hand, the archive of stretcher pack", darkGrey},
		{"packed, builtin", "stretcher, builtin, the same archive", blue},
	}
	p := newPlot("Time of a deployment of the Go tree", "", "seconds")
	horizontals(p)
	const width = 30
	most := 0.0
	for i, s := range sides {
		var values plotter.Values
		for _, part := range []string{"deploy", "network"} {
			for _, c := range changes {
				v, err := r.points(part, []string{s.name}, c)
				if err != nil {
					return nil, err
				}
				values = append(values, v...)
			}
		}
		bars, err := plotter.NewBarChart(values, width)
		if err != nil {
			return nil, err
		}
		bars.Color, bars.LineStyle.Width = s.color, 0
		bars.Offset = vg.Length(i-1) * (width + 2)
		p.Add(bars)
		p.Legend.Add(s.legend, bars)
		var at plotter.XYs
		var texts []string
		for x, v := range values {
			at, texts = append(at, plotter.XY{X: float64(x), Y: v}), append(texts, fmt.Sprintf("%.2f", v))
			most = max(most, v)
		}
		l, err := labels(p, at, texts, vg.Point{X: bars.Offset, Y: 2}, text.XCenter)
		if err != nil {
			return nil, err
		}
		p.Add(l)
	}
	p.NominalX("fresh,\nlocal file", "unchanged,\nlocal file", "1 % changed,\nlocal file", "fresh,\n100 Mbit/s", "unchanged,\n100 Mbit/s", "1 % changed,\n100 Mbit/s")
	p.X.Min, p.X.Max = -0.6, 5.6
	p.Y.Min, p.Y.Max = 0, most*1.35 // room for the legend
	p.Legend.Left = true
	return svg(760, 400, p)
}

// drawShares draws what is fetched by the share of changed files.
func drawShares(r *Report) ([]byte, error) {
	shares := []string{"0 %", "0.1 %", "0.3 %", "1 %", "3 %", "10 %", "30 %", "100 %"}
	p := newPlot("Bytes fetched by share of edited files, Go tree", "share of the files that are edited", "MB, logarithmic")
	horizontals(p)
	least, most := math.Inf(1), 0.0
	for _, s := range []struct {
		name, legend string
		color        color.Color
		dashes       []vg.Length
	}{
		{"gzip", "the whole archive as tar.gz", grey, []vg.Length{5, 3}},
		{"whole", "the whole archive of stretcher pack", darkGrey, []vg.Length{5, 3}},
		{"without patches", "what changed, of an archive without patches", lightBlue, nil},
		{"with patches", "what changed, of an archive with patches", blue, nil},
	} {
		var values []float64
		var err error
		if s.dashes != nil {
			values, err = r.points("bytes", slices.Repeat([]string{s.name}, len(shares)))
		} else {
			values, err = r.points("bytes", shares, s.name)
		}
		if err != nil {
			return nil, err
		}
		var at plotter.XYs
		for x, v := range values {
			at = append(at, plotter.XY{X: float64(x), Y: v})
			least, most = min(least, v), max(most, v)
		}
		line, marks, err := plotter.NewLinePoints(at)
		if err != nil {
			return nil, err
		}
		line.Color, line.Width, line.Dashes = s.color, 2, s.dashes
		marks.Color, marks.Shape, marks.Radius = s.color, draw.CircleGlyph{}, 3.5
		p.Add(line)
		if s.dashes != nil {
			p.Legend.Add(s.legend, line)
			continue
		}
		p.Add(marks)
		p.Legend.Add(s.legend, line, marks)
		if s.name != "with patches" {
			continue
		}
		var texts []string
		for _, v := range values {
			texts = append(texts, fmt.Sprintf("%.2f", v))
		}
		l, err := labels(p, at, texts, vg.Point{Y: -15}, text.XCenter)
		if err != nil {
			return nil, err
		}
		p.Add(l)
	}
	p.NominalX(shares...)
	p.X.Min, p.X.Max = -0.4, float64(len(shares))-0.6
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, decades{}
	p.Y.Min, p.Y.Max = least/2, most*15 // room for labels and legend
	p.Legend.Left = true
	return svg(760, 400, p)
}

// drawPairs draws the share of the archive that is fetched for real software.
func drawPairs(r *Report) ([]byte, error) {
	part := r.Part("bytes")
	if part == nil {
		return nil, errNotMeasured
	}
	var names []string
	for name := range part.Points {
		if short, ok := strings.CutPrefix(name, "pair, "); ok {
			names = append(names, short)
		}
	}
	if len(names) == 0 {
		return nil, errNotMeasured
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(b, a) }) // from below
	values, err := r.points("bytes", names, "pair")
	if err != nil {
		return nil, err
	}
	p := newPlot("Fetched for the next version of real software", "% of the archive", "")
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = nil, faint
	p.Add(grid)
	bars, err := plotter.NewBarChart(plotter.Values(values), 16)
	if err != nil {
		return nil, err
	}
	bars.Horizontal, bars.Color, bars.LineStyle.Width = true, blue, 0
	p.Add(bars)
	var at plotter.XYs
	var texts []string
	for y, v := range values {
		at, texts = append(at, plotter.XY{X: v, Y: float64(y)}), append(texts, fmt.Sprintf("%.1f %%", v))
	}
	l, err := labels(p, at, texts, vg.Point{X: 4}, text.XLeft)
	if err != nil {
		return nil, err
	}
	p.Add(l)
	for i, name := range names {
		names[i] = strings.Replace(name, ", ", ",\n", 1)
	}
	p.NominalY(names...)
	p.Y.Min, p.Y.Max = -0.6, float64(len(names))-0.4
	p.X.Min, p.X.Max = 0, max(25, slices.Max(values)*1.15)
	return svg(760, vg.Length(100+44*len(names)), p)
}

// drawCost draws how time, CPU time and memory grow with the number of files.
func drawCost(r *Report) ([]byte, error) {
	counts := []string{"1000", "10000", "100000"}
	files := []float64{1e3, 1e4, 1e5}
	legend := newPlot("", "", "")
	legend.HideAxes()
	legend.Legend.Left = true
	var plots []*plot.Plot
	for _, panel := range []struct{ name, title string }{
		{"time", "Time, seconds"}, {"CPU", "CPU time, seconds"}, {"memory", "Peak memory, MiB"},
	} {
		p := newPlot(panel.title, "files", "") // a label would be at the wrong place of a logarithmic axis
		grid := plotter.NewGrid()
		grid.Vertical.Color, grid.Horizontal.Color = faint, faint
		p.Add(grid)
		least, most := math.Inf(1), 0.0
		for _, s := range []struct {
			name  string
			color color.Color
		}{{"by hand", darkGrey}, {"default", lightBlue}, {"builtin", blue}} {
			if panel.name == "memory" && s.name == "by hand" {
				continue
			}
			for _, change := range []string{"fresh", "unchanged"} {
				values, err := r.points("growth", counts, panel.name, change, s.name)
				if err != nil {
					return nil, err
				}
				var at plotter.XYs
				for i, v := range values {
					at = append(at, plotter.XY{X: files[i], Y: v})
					least, most = min(least, v), max(most, v)
				}
				line, marks, err := plotter.NewLinePoints(at)
				if err != nil {
					return nil, err
				}
				line.Color, line.Width, marks.Color, marks.Radius = s.color, 1.5, s.color, 2.5
				marks.Shape = draw.CircleGlyph{}
				if change == "unchanged" {
					line.Dashes = []vg.Length{4, 3}
				}
				p.Add(line, marks)
				if panel.name == "time" {
					legend.Legend.Add(s.name+", "+change, line)
				}
			}
		}
		p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
		p.X.Tick.Marker, p.Y.Tick.Marker = plot.ConstantTicks{{Value: 1e3, Label: "1,000"}, {Value: 1e4, Label: "10,000"}, {Value: 1e5, Label: "100,000"}}, decades{}
		p.X.Min, p.X.Max = 700, 140_000
		p.Y.Min, p.Y.Max = least/1.5, most*1.5
		plots = append(plots, p)
	}
	// The same scale, so that CPU time and time can be compared.
	for _, p := range plots[:2] {
		p.Y.Min, p.Y.Max = min(plots[0].Y.Min, plots[1].Y.Min), max(plots[0].Y.Max, plots[1].Y.Max)
	}
	return svg(900, 320, append(plots, legend)...)
}

// decades puts ticks at 1, 2 and 5 of each power of ten, or at the powers alone if there
// are more than three.
type decades struct{}

func (decades) Ticks(least, most float64) []plot.Tick {
	steps := []float64{1, 2, 5}
	if most/least > 1000 {
		steps = steps[:1]
	}
	var ticks []plot.Tick
	for power := math.Pow(10, math.Floor(math.Log10(least))); power <= most; power *= 10 {
		for _, s := range steps {
			if v := s * power; v >= least && v <= most {
				ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprintf("%.6g", v)})
			}
		}
	}
	return ticks
}
