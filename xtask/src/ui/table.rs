// SPDX-License-Identifier: MIT OR Apache-2.0
//! A plain table with aligned columns.

use console::measure_text_width;

/// A cell wider than this does not widen its column; what follows it moves to the right.
const WIDEST: usize = 48;

/// Lays out rows in aligned columns, two spaces apart, each line indented by `indent`.
pub fn layout(rows: &[Vec<String>], indent: usize) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter()
            .filter_map(|r| r.get(c))
            .map(|s| measure_text_width(s))
            .filter(|&w| w <= WIDEST)
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    rows.iter()
        .map(|row| {
            let mut line = " ".repeat(indent);
            for (c, cell) in row.iter().enumerate() {
                line.push_str(cell);
                if c + 1 < row.len() {
                    line.push_str(
                        &" ".repeat(widths[c].saturating_sub(measure_text_width(cell)) + 2),
                    );
                }
            }
            line.trim_end().to_string()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["a".into(), "µs".into(), "x".into()],
            vec!["bbb".into(), "1".into()],
        ];
        assert_eq!(layout(&rows, 1), [" a    µs  x", " bbb  1"]);
    }

    #[test]
    fn one_long_cell_does_not_push_the_others_away() {
        let long = "x".repeat(60);
        let rows = [
            vec!["ok".into(), "1 s".into()],
            vec![long.clone(), "2 s".into()],
        ];
        assert_eq!(
            layout(&rows, 0),
            ["ok  1 s".to_string(), format!("{long}  2 s")]
        );
    }
}
