// SPDX-License-Identifier: MIT OR Apache-2.0
//! A plain table with aligned columns.

use console::measure_text_width;

/// Lays out rows in aligned columns, two spaces apart, each line indented by `indent`.
pub fn layout(rows: &[Vec<String>], indent: usize) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter()
            .filter_map(|r| r.get(c))
            .map(|s| measure_text_width(s))
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
                    line.push_str(&" ".repeat(widths[c] - measure_text_width(cell) + 2));
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
}
