//! Lines on stdout.

use std::io::{self, BufWriter, Write as _, stdout};

pub(crate) fn print(lines: impl IntoIterator<Item = String>) -> io::Result<()> {
    let mut out = BufWriter::new(stdout().lock());
    for line in lines {
        writeln!(out, "{line}")?;
    }
    out.flush()
}
