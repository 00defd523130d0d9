// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables: as wide as the terminal, or as wide as they need to be where there is none.

use comfy_table::{presets, ContentArrangement, Table};

/// How many columns standard output has; nothing where it is no terminal.
pub fn width() -> Option<u16> {
    size().map(|(columns, _)| columns)
}

/// Columns and rows of standard output's terminal.
pub fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    // A serial console knows no size.
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Rows under a head, without lines. A narrow terminal gets wrapped cells.
pub fn render(head: &[&str], rows: Vec<Vec<String>>, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head);
    table.add_rows(rows);
    if let Some(width) = width {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut out = String::new();
    for line in table.lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<String>> {
        vec![
            vec!["1142\n1150".to_owned(), "ib_write_bw -d rxe0".to_owned()],
            vec!["7".to_owned(), "x".to_owned()],
        ]
    }

    #[test]
    fn columns_line_up() {
        let text = render(&["PID", "COMMAND"], rows(), None);
        assert_eq!(
            text,
            "PID   COMMAND\n1142  ib_write_bw -d rxe0\n1150\n7     x\n"
        );
    }

    #[test]
    fn a_narrow_terminal_is_not_exceeded() {
        let text = render(&["PID", "COMMAND"], rows(), Some(18));
        assert!(text.lines().all(|line| line.len() <= 18), "{text}");
        assert!(text.contains("rxe0"));
    }
}
