//! Where a watch is shown: on the [`Screen`] of a terminal, or as [`Lines`] to whoever reads them.

use crate::Scope;
use crate::entry::escape;
use crate::registry::{Change, short};
use crate::table::{Table, cells, cut};
use crate::watch::View;
use std::collections::BTreeSet;
use std::env;
use std::fs::File;
use std::io::{self, Write, stdout};
use std::process::Stdio;
use tokio::process::Command;
use tokio::time::Instant;

/// What a watch is shown on.
pub(crate) trait Sink {
    /// Shows all of it. Gives the leases whose time left is seen.
    fn draw(&mut self, view: &View) -> io::Result<Vec<i64>>;
    fn changed(&mut self, change: &Change, scope: &Scope) -> io::Result<()>;
    fn on_outage(&mut self, outage: &Outage) -> io::Result<()>;
    fn recovered(&mut self, outage: &Outage, endpoint: &str) -> io::Result<()>;
    async fn resized(&mut self);
}

/// etcd is out of reach.
#[derive(Debug)]
pub(crate) struct Outage {
    pub(crate) since: Instant,
    /// The latest reason.
    pub(crate) why: String,
    /// All different ones, as long as there are few: each member has its own.
    pub(crate) whys: BTreeSet<String>,
}

/// A table that is redrawn in place.
#[derive(Debug)]
pub(crate) struct Screen {
    size: Size,
    colours: bool,
    entered: bool,
}

/// One line for each change.
#[derive(Debug)]
pub(crate) struct Lines {
    start: Instant,
}

/// Of a terminal, in characters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// The other screen, no cursor, and lines that are cut instead of wrapped.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// What is needed besides the rows: two lines above, and the head.
const OVERHEAD: usize = 3;

/// The size of the terminal, by `stty`: asking the system for it takes unsafe code.
pub(crate) async fn size() -> Size {
    let asked = async {
        let tty = File::open("/dev/tty").ok()?;
        let mut stty = Command::new("stty");
        stty.arg("size")
            .stdin(tty)
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let said = String::from_utf8(stty.output().await.ok()?.stdout).ok()?;
        let (height, width) = said.trim().split_once(' ')?;
        let (height, width) = (height.parse().ok()?, width.parse().ok()?);
        (height > 0 && width > 0).then_some(Size { width, height })
    };
    asked.await.unwrap_or(Size {
        width: 80,
        height: 24,
    })
}

// === impl Screen ===

impl Screen {
    pub(crate) async fn enter() -> io::Result<Self> {
        let size = size().await;
        let colours = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        write_out(ENTER)?;
        Ok(Self {
            size,
            colours,
            entered: true,
        })
    }

    /// Gives the terminal back, with what was last known.
    pub(crate) fn leave(mut self, view: &View) -> io::Result<()> {
        self.entered = false;
        let (lines, _) = self.lines(view, usize::MAX);
        write_out(&format!("{LEAVE}{}\n", lines.join("\n")))
    }

    fn lines(&self, view: &View, rows: usize) -> (Vec<String>, Vec<i64>) {
        let now = Instant::now();
        let mut table = Table::new(["NAME", "ADDRESS", "LEASE", "TTL LEFT", "AGE", "VALUE"]);
        let mut leases = vec![];
        for known in view.registry.iter().take(rows) {
            let entry = &known.entry;
            let ([name, address, lease, left], rest) = cells(entry, &view.scope, &view.ttls);
            table.push([name, address, lease, left, known.age(now), rest]);
            if entry.lease != 0 && !leases.contains(&entry.lease) {
                leases.push(entry.lease);
            }
        }
        let width = self.size.width;
        let mut lines = vec![cut(&self.title(view, rows), width), self.state(view, now)];
        lines.extend(table.lines(Some(width)));
        if let Some(head) = lines.get_mut(2) {
            *head = self.paint("1", head);
        }
        (lines, leases)
    }

    fn title(&self, view: &View, rows: usize) -> String {
        let scans = escape(view.scope.scans.join(", ").as_bytes());
        match view.registry.len() {
            1 => format!("1 key under {scans}"),
            all if all > rows => format!("{all} keys under {scans}, the first {rows} of them"),
            all => format!("{all} keys under {scans}"),
        }
    }

    fn state(&self, view: &View, now: Instant) -> String {
        let width = self.size.width;
        match (&view.outage, &view.endpoint) {
            (Some(outage), _) => {
                let state = format!("etcd unreachable {}", outage.told(now));
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
    fn draw(&mut self, view: &View) -> io::Result<Vec<i64>> {
        let rows = self.size.height.saturating_sub(OVERHEAD);
        let (lines, leases) = self.lines(view, rows);
        let shown: Vec<_> = lines
            .iter()
            .take(self.size.height)
            .map(String::as_str)
            .collect();
        // Line by line over what is there, and only then the rest is cleared: nothing flickers.
        write_out(&format!("\x1b[H{}\x1b[K\x1b[J", shown.join("\x1b[K\r\n")))?;
        Ok(leases)
    }

    fn changed(&mut self, _: &Change, _: &Scope) -> io::Result<()> {
        Ok(())
    }

    fn on_outage(&mut self, _: &Outage) -> io::Result<()> {
        Ok(())
    }

    fn recovered(&mut self, _: &Outage, _: &str) -> io::Result<()> {
        Ok(())
    }

    async fn resized(&mut self) {
        self.size = size().await;
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
    fn draw(&mut self, _: &View) -> io::Result<Vec<i64>> {
        Ok(vec![])
    }

    fn changed(&mut self, change: &Change, scope: &Scope) -> io::Result<()> {
        let (sign, entry) = match change {
            Change::Was(entry) => ('=', entry),
            Change::Appeared(entry) => ('+', entry),
            Change::Written(entry) => ('~', entry),
            Change::Gone(key) => return self.say('-', &escape(key)),
        };
        let shown = entry.shown(scope);
        let (key, lease, value) = (escape(&entry.key), entry.lease, cut(&shown.rest, 60));
        let (name, address) = (shown.name, shown.address);
        self.say(
            sign,
            &format!("{key} name={name} address={address} lease={lease:016x} {value}"),
        )
    }

    fn on_outage(&mut self, outage: &Outage) -> io::Result<()> {
        self.say('!', &format!("etcd unreachable: {}", outage.why))
    }

    fn recovered(&mut self, outage: &Outage, endpoint: &str) -> io::Result<()> {
        let after = short(outage.since.elapsed());
        self.say('!', &format!("etcd is back after {after}, at {endpoint}"))
    }

    async fn resized(&mut self) {}
}

// === impl Outage ===

impl Outage {
    fn told(&self, now: Instant) -> String {
        let since = short(now.saturating_duration_since(self.since));
        format!(
            "for {since}, showing the last known: {}",
            escape(self.why.as_bytes())
        )
    }
}

fn write_out(text: &str) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
