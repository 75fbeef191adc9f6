//! [`Event`]: a line of the output.

use greeter::pb::HelloReply;
use serde::Serialize;
use std::fmt;
use std::io::{self, Write as _};
use std::time::Duration;
use tonic::{Response, Status};
use tonic_etcd::channel::AnsweredBy;
use tonic_etcd::discovery::Change;

/// One line, for people or as JSON.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Event {
    Found {
        key: String,
        address: String,
    },
    Gone {
        key: String,
    },
    Answered {
        address: String,
        message: String,
        ms: f64,
    },
    Failed {
        code: String,
        error: String,
        ms: f64,
    },
}

// === impl Event ===

impl Event {
    pub(crate) fn of_change(change: Change) -> Self {
        match change {
            Change::Insert { key, instance, .. } => Self::Found {
                key: key.to_string(),
                address: instance.address().unwrap_or_default().to_owned(),
            },
            Change::Remove { key, .. } => Self::Gone {
                key: key.to_string(),
            },
            other => unreachable!("{other:?}"),
        }
    }

    pub(crate) fn of_call(answer: Result<Response<HelloReply>, Status>, took: Duration) -> Self {
        let ms = (took.as_secs_f64() * 1e6).round() / 1e3;
        match answer {
            Ok(reply) => {
                let who = reply.extensions().get::<AnsweredBy>();
                Self::Answered {
                    address: who.map_or("", AnsweredBy::address).to_owned(),
                    message: reply.into_inner().message,
                    ms,
                }
            }
            Err(status) => Self::Failed {
                code: format!("{:?}", status.code()),
                error: status.message().to_owned(),
                ms,
            },
        }
    }

    /// Prints the line. `println!` would panic when stdout is closed.
    pub(crate) fn print(&self, json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if json {
            writeln!(out, "{}", serde_json::to_string(self)?)
        } else {
            writeln!(out, "{self}")
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found { key, address } => write!(f, "+ {address}  {key}"),
            Self::Gone { key } => write!(f, "- {key}"),
            Self::Answered {
                address,
                message,
                ms,
            } => write!(f, "{address}  {message}  {ms} ms"),
            Self::Failed { code, error, ms } => write!(f, "{code}: {error}  {ms} ms"),
        }
    }
}
