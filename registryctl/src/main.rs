//! Shows the servers that are registered in etcd, and why clients do not find them.
//!
//! ```sh
//! registryctl list
//! registryctl doctor greeter
//! registryctl watch --name greeter
//! registryctl watch --name greeter --format plain,kratos,go-zero
//! ```
//!
//! | file | |
//! |---|---|
//! | `access.rs`, `formats.rs` | flags: how etcd is reached, which formats are read |
//! | `scope.rs` | [`Scope`](scope::Scope): which keys, in which formats; pure |
//! | `source.rs` | [`Source`]: the members of etcd, and what operators ask them |
//! | `entry.rs` | [`Entry`](entry::Entry): one key, decoded as far as possible |
//! | `failure.rs`, `output.rs` | why a command failed; lines on stdout |
//! | `table.rs` | rows and columns; pure |
//! | `list.rs` | the servers that are registered now |
//! | `watch.rs` | the same, and every change |
//! | `follow.rs` | list, watch, and again after every error |
//! | `registry.rs`, `view.rs` | what a watch knows; pure |
//! | `screen.rs` | the same on a terminal |
//! | `target.rs` | the server that a command names; pure |
//! | `dial.rs` | [`Dialer`]: how servers are dialled |
//! | `wire.rs`, `health.rs`, `server.rs` | what a server answers: its protocol, its health, its introspection service |
//! | `describe.rs`, `pause.rs` | the commands that call a server |
//! | `process.rs` | what a server reports on etcd and on its discoveries |
//! | `doctor/` | why clients do not find a service |

mod access;
mod describe;
mod dial;
mod doctor;
mod entry;
mod failure;
mod follow;
mod formats;
mod health;
mod list;
mod output;
mod pause;
mod process;
mod registry;
mod scope;
mod screen;
mod server;
mod source;
mod table;
mod target;
mod view;
mod watch;
mod wire;

use access::Access;
use clap::{Parser, Subcommand};
use dial::{DialArgs, Dialer};
use failure::Failure;
use scope::ScopeArgs;
use source::Source;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

/// Shows the servers that are registered in etcd.
///
/// Exit code 0 on success, 1 if no etcd answered, 2 if the command line or the
/// environment is wrong. NO_COLOR is respected.
///
/// NAME and ADDRESS are from the JSON that servers write by default; for other values, from
/// the key {prefix}/{name}/{ip}/{pid}. In other formats they are those that its readers
/// see; a value that they cannot read has no ADDRESS. VALUE is the rest of the JSON, or the whole
/// other value, shortened, after the reason if readers skip the key; control characters are escaped. TTL LEFT is the remaining time of the
/// lease: `none` for a key without a lease, which would never expire, `?` if etcd
/// did not answer.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    access: Access,
    /// How long to wait for one answer of one member
    #[arg(long, env = "ETCD_TIMEOUT", default_value = "2s", value_name = "TIME")]
    #[arg(help_heading = access::HEADING, global = true, value_parser = access::time)]
    timeout: Duration,
    #[command(flatten)]
    scope: ScopeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the servers that are registered now
    ///
    /// etcd stores no times, so the age of a key is not known. REVISION is that of its last
    /// write: of two keys, the one with the higher revision was written later.
    List {
        /// One JSON object per line, with whole values
        #[arg(long, env = "REGISTRYCTL_JSON")]
        json: bool,
    },
    /// Shows the registered servers, and every change, until ctrl-c
    ///
    /// On a terminal it shows a table. AGE is the time since the last write was seen;
    /// `>` means that the key is older, because it was there when the watch began. Without a terminal it prints
    /// a line for each change, with the time since the start in seconds. `=`: the key was there when the watch
    /// began; `+`: put; `~`: written again; `-`: deleted; `!`: an outage of etcd, or its end.
    ///
    /// While etcd is out of reach it shows the last known state. Changes in that time are shown
    /// afterwards.
    Watch,
    /// Finds out why clients do not find a service, or cannot call it
    ///
    /// Checks in the order of a call: etcd, permission, keys, leases, addresses, connection, health. Each finding says
    /// what to do next; the first of the worst findings is the first cause. Exit code 0 if nothing is wrong, 1 if there are
    /// only warnings, 2 if there is a problem, or the command line is wrong. Writes nothing to etcd.
    Doctor {
        /// The service, as servers register it
        service: String,
        /// One JSON object
        #[arg(long, env = "REGISTRYCTL_JSON")]
        json: bool,
        #[command(flatten)]
        dial: DialArgs,
    },
    /// Compares what etcd has of one server with what the server itself reports
    ///
    /// Calls the server's introspection service, if it has one, and its health service. Lines that begin with
    /// `!` show differences between the two sides. Exit code 0 if there are none, 1 otherwise. Changes nothing.
    Describe {
        /// A key, service/id, an address, or a service that has one instance
        instance: String,
        #[command(flatten)]
        dial: DialArgs,
    },
    /// Takes one server out of etcd while it keeps serving, until `resume`
    ///
    /// The server must have an introspection service that allows remote control.
    Pause {
        /// A key, service/id, an address, or a service that has one instance
        instance: String,
        /// The reason, shown in the status and the log
        #[arg(long)]
        reason: String,
        /// The name of the pause, for `resume`
        #[arg(long, default_value = "registryctl", value_name = "NAME")]
        pause_name: String,
        #[command(flatten)]
        dial: DialArgs,
    },
    /// Ends a pause that was made with `pause`
    Resume {
        /// Its address, which `pause` has printed; a paused server has no key
        instance: String,
        /// The name of the pause
        #[arg(long, default_value = "registryctl", value_name = "NAME")]
        pause_name: String,
        #[command(flatten)]
        dial: DialArgs,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(exit_code(&args));
    // A lookup that DNS does not answer would be waited for.
    runtime.shutdown_background();
    code
}

async fn exit_code(args: &Args) -> ExitCode {
    let failure = match run(args).await {
        Ok(code) => return code,
        // The reader has closed the pipe: `registryctl list | head`.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(failure) => failure,
    };
    eprintln!("error: {failure}");
    match failure {
        Failure::Usage(_) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

async fn run(args: &Args) -> Result<ExitCode, Failure> {
    let scope = match &args.command {
        Command::Doctor { service, .. } => args.scope.of_service(service)?,
        _ => args.scope.check()?,
    };
    let source = Source::new(&args.access, args.timeout, &scope.scans)?;
    let dialer = |dial| Dialer::new(dial, args.timeout);
    match &args.command {
        Command::List { json } => list::run(&source, &scope, *json).await?,
        Command::Watch => watch::run(source, scope).await?,
        Command::Doctor {
            service,
            json,
            dial,
        } => {
            let dialer = Dialer::new(dial, wire::PROBE_TIMEOUT)?;
            return doctor::run(source, &scope, service, &dialer, *json).await;
        }
        Command::Describe { instance, dial } => {
            return describe::run(&source, &scope, instance, &dialer(dial)?).await;
        }
        Command::Pause {
            instance,
            reason,
            pause_name,
            dial,
        } => {
            let dialer = dialer(dial)?;
            pause::pause(&source, &scope, instance, &dialer, pause_name, reason).await?;
        }
        Command::Resume {
            instance,
            pause_name,
            dial,
        } => pause::resume(&source, &scope, instance, &dialer(dial)?, pause_name).await?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_private_key_is_also_called_key_as_it_was_at_first() {
        Args::command().debug_assert();
        for flag in ["--key", "--key-file"] {
            let matches =
                Args::command().try_get_matches_from(["registryctl", "list", flag, "a.pem"]);
            let matches = matches.unwrap_or_else(|error| panic!("{flag}: {error}"));
            let given = matches.get_one::<std::path::PathBuf>("key_file");
            assert_eq!(given, Some(&"a.pem".into()), "{flag}");
        }
    }
}
