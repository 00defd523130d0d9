// SPDX-License-Identifier: MIT OR Apache-2.0
//! Curves and bars as SVG that stands in a page by itself.

use crate::report::markup::escape;
use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 50.0;
/// Colours that can be told apart without red and green.
const COLOURS: [&str; 8] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f",
];

/// A line of a plot.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Places and values, all above zero.
    pub points: Vec<(f64, f64)>,
}

/// A number as axes show it: 1k, 2M; for bytes, 4 KiB.
pub fn short(value: f64, bytes: bool) -> String {
    let (step, units) = if bytes {
        (1024.0, [" B", " KiB", " MiB", " GiB", " TiB"])
    } else {
        (1000.0, ["", "k", "M", "G", "T"])
    };
    let (mut value, mut unit) = (value, 0);
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = usize::from(value < 10.0 && value.fract().abs() > 0.04);
    format!("{value:.digits$}{}", units[unit])
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    let what = escape(what);
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>"
    );
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), class: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" class=\"{class}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn begin(out: &mut String, title: &str, height: f64) {
    let name = escape(title);
    let _ = writeln!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{name}\" \
         xmlns=\"http://www.w3.org/2000/svg\">"
    );
    text(out, WIDTH / 2.0, 18.0, "middle", title);
}

/// Logarithmic positions of values between the ends of an axis.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Axis {
        let low = values.clone().fold(f64::MAX, f64::min).max(1e-9).log10();
        let high = values.fold(f64::MIN, f64::max).max(1e-9).log10();
        let (low, high) = if high - low < 1.0 {
            let middle = (low + high) / 2.0;
            (middle - 0.5, middle + 0.5)
        } else {
            (low, high)
        };
        Axis {
            low,
            high,
            from,
            to,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value.max(1e-9).log10() - self.low) / (self.high - self.low);
        self.from + share * (self.to - self.from)
    }

    /// 1, 2 and 5 times powers of ten; only powers where those are many. Bytes go by powers of four.
    fn ticks(&self, bytes: bool) -> Vec<f64> {
        let mut all = vec![];
        if bytes {
            let power = |log: f64| log * std::f64::consts::LOG2_10 / 2.0;
            let (low, high) = (
                power(self.low).ceil() as i32,
                power(self.high).floor() as i32,
            );
            let step = usize::try_from((high - low) / 8 + 1).unwrap_or(1);
            return (low..=high)
                .step_by(step)
                .map(|p| 4.0_f64.powi(p))
                .collect();
        }
        let wide = self.high - self.low > 4.0;
        for power in self.low.floor() as i32..=self.high.ceil() as i32 {
            for factor in [1.0, 2.0, 5.0] {
                let value: f64 = factor * 10.0_f64.powi(power);
                let inside = value.log10() >= self.low - 1e-9 && value.log10() <= self.high + 1e-9;
                if inside && (factor == 1.0 || !wide) {
                    all.push(value);
                }
            }
        }
        all
    }
}

/// Curves with logarithmic axes.
pub fn curves(title: &str, x_name: &str, y_name: &str, bytes: bool, all: &[Series]) -> String {
    let mut out = String::new();
    let key = all.len() as f64 * 18.0;
    begin(&mut out, title, HEIGHT + key);
    let points = || all.iter().flat_map(|s| s.points.iter().copied());
    let x = Axis::of(points().map(|p| p.0), LEFT, WIDTH - RIGHT);
    let y = Axis::of(points().map(|p| p.1), HEIGHT - BOTTOM, TOP);
    for value in x.ticks(bytes) {
        let at = x.at(value);
        line(&mut out, (at, TOP), (at, HEIGHT - BOTTOM), "grid");
        text(
            &mut out,
            at,
            HEIGHT - BOTTOM + 16.0,
            "middle",
            &short(value, bytes),
        );
    }
    for value in y.ticks(false) {
        let at = y.at(value);
        line(&mut out, (LEFT, at), (WIDTH - RIGHT, at), "grid");
        text(&mut out, LEFT - 6.0, at + 4.0, "end", &short(value, false));
    }
    text(
        &mut out,
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 14.0,
        "middle",
        x_name,
    );
    let _ = writeln!(
        out,
        "<text transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        (TOP + HEIGHT - BOTTOM) / 2.0,
        escape(y_name)
    );
    for (n, series) in all.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let dash = if n >= COLOURS.len() {
            " stroke-dasharray=\"5 3\""
        } else {
            ""
        };
        let path: Vec<String> = series
            .points
            .iter()
            .map(|p| format!("{:.1},{:.1}", x.at(p.0), y.at(p.1)))
            .collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
            path.join(" ")
        );
        for p in &series.points {
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"><title>{}: {} at {}</title></circle>",
                x.at(p.0),
                y.at(p.1),
                escape(&series.name),
                p.1,
                p.0
            );
        }
        let at = HEIGHT + n as f64 * 18.0 - 2.0;
        let _ = writeln!(
            out,
            "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"14\" height=\"4\" fill=\"{colour}\"/>",
            at - 6.0
        );
        text(&mut out, LEFT + 20.0, at, "start", &series.name);
    }
    out.push_str("</svg>\n");
    out
}

/// Bars from zero, with their values.
pub fn bars(title: &str, unit: &str, all: &[(String, f64)]) -> String {
    const ROW: f64 = 26.0;
    let mut out = String::new();
    begin(
        &mut out,
        &format!("{title} ({unit})"),
        TOP + all.len() as f64 * ROW + 8.0,
    );
    let most = all.iter().map(|bar| bar.1).fold(0.0, f64::max);
    let (left, room) = (230.0, WIDTH - 230.0 - 60.0);
    for (n, (name, value)) in all.iter().enumerate() {
        let at = TOP + n as f64 * ROW;
        let width = if most > 0.0 { value / most * room } else { 0.0 };
        text(&mut out, left - 8.0, at + 15.0, "end", name);
        let _ = writeln!(
            out,
            "<rect x=\"{left}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"18\" fill=\"{}\"/>",
            at + 1.0,
            COLOURS[n % COLOURS.len()]
        );
        text(
            &mut out,
            left + width + 6.0,
            at + 15.0,
            "start",
            &short(*value, false),
        );
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(short(1500.0, false), "1.5k");
        assert_eq!(short(100_000.0, false), "100k");
        assert_eq!(short((2 << 20) as f64, true), "2 MiB");
        assert_eq!(short(0.5, false), "0.5");
    }

    #[test]
    fn axes_have_their_ends_where_they_belong() {
        let axis = Axis::of([1.0, 100.0].into_iter(), 0.0, 10.0);
        assert!((axis.at(10.0) - 5.0).abs() < 1e-9 && axis.at(100.0) == 10.0);
        assert_eq!(axis.ticks(false), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        // All of one value still has a place in the middle.
        let flat = Axis::of([7.0].into_iter(), 0.0, 10.0);
        assert!((flat.at(7.0) - 5.0).abs() < 1e-9);
        let bytes = Axis::of([4096.0, 65536.0].into_iter(), 0.0, 1.0);
        assert_eq!(bytes.ticks(true), [4096.0, 16384.0, 65536.0]);
    }

    #[test]
    fn a_plot_has_a_line_for_each_series_and_escapes_names() {
        let series = |name: &str| Series {
            name: name.into(),
            points: vec![(1.0, 5.0), (10.0, 6.0)],
        };
        let svg = curves(
            "t",
            "pins",
            "instructions",
            false,
            &[series("a<b"), series("c")],
        );
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"));
        assert!(!svg.contains("NaN"));
        let svg = bars("t", "u", &[("a".into(), 0.0), ("b".into(), 2.0)]);
        assert_eq!(svg.matches("<rect").count(), 2);
    }
}
