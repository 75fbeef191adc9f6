//! How fast one more instance is seen, and what it costs; from outside. See [`crate::measure`].

use crate::measure::{self, put_all};
use crate::problem::Problem;
use crate::servers::{run, said};
use crate::table::Table;
use crate::workdir::Workdir;
use std::path::Path;
use std::time::Duration;
use test_support::etcd::Etcd;
use test_support::poll;
use test_support::ports;

const FEW: usize = 3;
const MANY: usize = 1_000;
const FLEET: usize = 10_000;
const TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) async fn perform(workdir: &Workdir, table: &mut Table) -> Result<(), Problem> {
    if !cfg!(target_os = "linux") {
        table.line("\nspread: skipped, it needs all of 127.0.0.0/8 and /proc, which Linux has");
        return Ok(());
    }
    let dir = workdir.path().join("spread");
    std::fs::create_dir_all(&dir)?;
    let port = ports::free();
    let (listen, log) = (format!("0.0.0.0:{port}"), dir.join("host.log"));
    let host = run(&["host", "--listen", &listen], &log)?;
    said(&host, &log, "registered by nobody").await?;
    table.line(measure::HEAD);
    for instances in [FEW, MANY] {
        let etcd = Etcd::start().await;
        child(table, "spread", &etcd, instances, port, &dir).await?;
    }
    let etcd = Etcd::start().await;
    // Written from here, so that the memory of the measuring process is only its own.
    put_all(&mut etcd.client().await, FLEET, port).await?;
    child(table, "scale", &etcd, FLEET, port, &dir).await
}

/// Measures in a process of its own, and prints what it says.
async fn child(
    table: &mut Table,
    what: &str,
    etcd: &Etcd,
    instances: usize,
    port: u16,
    dir: &Path,
) -> Result<(), Problem> {
    eprintln!("{what} with {instances} instances");
    let name = format!("{what}-{instances}");
    let (log, into) = (dir.join(format!("{name}.log")), dir.join(name));
    let (instances, port) = (instances.to_string(), port.to_string());
    let into = into.display().to_string();
    let (etcd, flags) = (
        etcd.endpoint(),
        ["--instances", &instances, "--port", &port],
    );
    let args = [
        &["measure", what, "--etcd", &etcd, "--into", &into],
        &flags[..],
    ]
    .concat();
    let process = run(&args, &log)?;
    let ended = async || process.exit_code().ok_or(());
    match poll(Duration::from_millis(20), TIMEOUT, ended).await {
        Ok(0) => {}
        Ok(_) => return Err(std::fs::read_to_string(log)?.into()),
        Err(()) => return Err(format!("{what} takes too long: see {}", log.display()).into()),
    }
    std::fs::read_to_string(into)?
        .lines()
        .for_each(|line| table.line(line));
    Ok(())
}
