//! The output of a watch: a [`Screen`] on a terminal, or [`Lines`].

use crate::entry::{cut, escape, foreign};
use crate::registry::Registry;
use crate::registry::{Change, short};
use crate::scope::Scope;
use crate::source::Ttls;
use crate::table::table;
use std::collections::BTreeSet;
use std::env;
use std::io::{self, Write, stdout};
use std::sync::Arc;
use terminal_size::{Height, Width, terminal_size};
use tokio::time::Instant;

/// What is shown.
pub(crate) struct View {
    pub(crate) scope: Scope,
    pub(crate) registry: Registry,
    pub(crate) ttls: Ttls,
    /// The member that answered last.
    pub(crate) endpoint: Option<Arc<str>>,
    pub(crate) outage: Option<Outage>,
}

/// The output of a watch.
pub(crate) trait Sink {
    /// Shows the view. Returns the leases whose remaining time is visible.
    fn draw(&self, _: &View) -> io::Result<Vec<i64>> {
        Ok(vec![])
    }

    fn changed(&self, _: &Change, _: &Scope) -> io::Result<()> {
        Ok(())
    }

    fn on_outage(&self, _: &Outage) -> io::Result<()> {
        Ok(())
    }

    fn recovered(&self, _: &Outage, _endpoint: &str) -> io::Result<()> {
        Ok(())
    }
}

/// etcd is out of reach.
#[derive(Debug)]
pub(crate) struct Outage {
    pub(crate) since: Instant,
    /// The latest reason.
    pub(crate) why: String,
    /// The different reasons, up to a limit: each member has its own.
    pub(crate) whys: BTreeSet<String>,
}

/// A table that is redrawn in place.
#[derive(Debug)]
pub(crate) struct Screen {
    colours: bool,
    entered: bool,
}

/// One line for each change.
#[derive(Debug)]
pub(crate) struct Lines {
    start: Instant,
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

    /// Restores the terminal, and prints the last view.
    pub(crate) fn leave(mut self, view: &View) -> io::Result<()> {
        self.entered = false;
        let (lines, _) = self.lines(view, size().0, usize::MAX);
        write_out(&format!("{LEAVE}{}\n", lines.join("\n")))
    }

    fn lines(&self, view: &View, width: usize, rows: usize) -> (Vec<String>, Vec<i64>) {
        let now = Instant::now();
        let known = || view.registry.iter().take(rows);
        let aged = known().map(|it| (&it.entry, it.age(now)));
        let table = table("AGE", aged, &view.scope, &view.ttls);
        let title = cut(&title(view, rows), width);
        let mut lines = vec![title, self.state(view, width, now)];
        lines.extend(table.lines(Some(width)));
        if let Some(head) = lines.get_mut(2) {
            *head = self.paint("1", head);
        }
        (lines, known().map(|it| it.entry.lease).collect())
    }

    fn state(&self, view: &View, width: usize, now: Instant) -> String {
        match (&view.outage, &view.endpoint) {
            (Some(outage), _) => {
                let state = format!("etcd unreachable {}", outage.text(now));
                self.paint("1;31", &cut(&state, width))
            }
            (None, Some(endpoint)) => cut(&format!("seen at {endpoint}"), width),
            (None, None) => "connecting".to_owned(),
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        match self.colours {
            true => format!("\x1b[{colour}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

impl Sink for Screen {
    fn draw(&self, view: &View) -> io::Result<Vec<i64>> {
        let (width, height) = size();
        let (mut lines, leases) = self.lines(view, width, height.saturating_sub(OVERHEAD));
        lines.truncate(height);
        // Overwrite line by line, and clear the rest afterwards, to avoid flicker.
        write_out(&format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n")))?;
        Ok(leases)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.entered {
            let _ = write_out(LEAVE);
        }
    }
}

// === impl Lines ===

impl Lines {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    fn say(&self, sign: char, text: &str) -> io::Result<()> {
        write_out(&format!(
            "{:>10.3} {sign} {text}\n",
            self.start.elapsed().as_secs_f64()
        ))
    }
}

impl Sink for Lines {
    fn changed(&self, change: &Change, scope: &Scope) -> io::Result<()> {
        let (sign, entry) = match change {
            Change::Was(entry) => ('=', entry),
            Change::Appeared(entry) => ('+', entry),
            Change::Written(entry) => ('~', entry),
            Change::Gone(key) => return self.say('-', &foreign(key)),
        };
        let shown = entry.shown(scope);
        let (key, lease, value) = (foreign(&entry.key), entry.lease, cut(&shown.rest, 60));
        let (name, address) = (shown.name, shown.address);
        self.say(
            sign,
            &format!("{key} name={name} address={address} lease={lease:016x} {value}"),
        )
    }

    fn on_outage(&self, outage: &Outage) -> io::Result<()> {
        self.say('!', &format!("etcd unreachable: {}", outage.why))
    }

    fn recovered(&self, outage: &Outage, endpoint: &str) -> io::Result<()> {
        let after = short(outage.since.elapsed());
        self.say('!', &format!("etcd is back after {after}, at {endpoint}"))
    }
}

// === impl Outage ===

impl Outage {
    fn text(&self, now: Instant) -> String {
        let since = short(now.saturating_duration_since(self.since));
        format!("for {since}, showing the last known: {}", self.why)
    }
}

fn title(view: &View, rows: usize) -> String {
    let scans = escape(view.scope.scans.join(", "));
    match view.registry.len() {
        1 => format!("1 key under {scans}"),
        all if all > rows => format!("{all} keys under {scans}, the first {rows} of them"),
        all => format!("{all} keys under {scans}"),
    }
}

fn write_out(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
