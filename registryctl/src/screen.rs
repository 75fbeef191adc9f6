//! [`Screen`]: a table of a watch on a terminal.

use crate::entry::cut;
use crate::table::table;
use crate::view::View;
use std::env;
use std::io::{self, Write as _, stdout};
use terminal_size::{Height, Width, terminal_size};
use tokio::time::Instant;

/// A table that is redrawn in place.
#[derive(Debug)]
pub(crate) struct Screen {
    colours: bool,
    entered: bool,
}

/// Alternate screen, no cursor, and lines that are cut instead of wrapped.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Lines besides the rows: two lines above, and the head.
const OVERHEAD: usize = 3;

/// Width and height of the terminal, in characters.
pub(crate) fn size() -> (usize, usize) {
    let (Width(width), Height(height)) = terminal_size().unwrap_or((Width(80), Height(24)));
    (width.into(), height.into())
}

// === impl Screen ===

impl Screen {
    pub(crate) fn enter() -> io::Result<Self> {
        let colours = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        write_out(ENTER)?;
        Ok(Self {
            colours,
            entered: true,
        })
    }

    /// Shows the view. Returns the leases whose remaining time is visible.
    pub(crate) fn draw(&self, view: &View) -> io::Result<Vec<i64>> {
        let (width, height) = size();
        let rows = height.saturating_sub(OVERHEAD);
        let mut lines = self.lines(view, width, rows);
        lines.truncate(height);
        // Overwrite line by line, and clear the rest afterwards, to avoid flicker.
        write_out(&format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n")))?;
        let shown = view.registry.iter().take(rows);
        Ok(shown.map(|known| known.entry.lease).collect())
    }

    /// Restores the terminal, and prints the last view.
    pub(crate) fn leave(mut self, view: &View) -> io::Result<()> {
        self.entered = false;
        let lines = self.lines(view, size().0, usize::MAX);
        write_out(&format!("{LEAVE}{}\n", lines.join("\n")))
    }

    fn lines(&self, view: &View, width: usize, rows: usize) -> Vec<String> {
        let now = Instant::now();
        let known = view.registry.iter().take(rows);
        let aged = known.map(|it| (&it.entry, it.age(now)));
        let table = table("AGE", aged, &view.scope, &view.ttls);
        let state = match view.state(now) {
            Ok(state) => cut(&state, width),
            Err(outage) => self.paint("1;31", &cut(&outage, width)),
        };
        let mut lines = vec![cut(&view.title(rows), width), state];
        lines.extend(table.lines(Some(width)));
        if let Some(head) = lines.get_mut(2) {
            *head = self.paint("1", head);
        }
        lines
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        match self.colours {
            true => format!("\x1b[{colour}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.entered {
            let _ = write_out(LEAVE);
        }
    }
}

fn write_out(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
