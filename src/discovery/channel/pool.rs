//! [`Pool`]: what the tasks and the calls of one channel share.

use super::dial::Dialer;
use super::node::{Link, Node, Turn};
use super::roster::Roster;
use super::state::ConnectivityState;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// What the tasks and the calls of one channel share.
#[derive(Debug)]
pub(super) struct Pool {
    /// Those that can be called now.
    pub(super) roster: Roster<Link>,
    pub(super) dialer: Dialer,
    /// How long a call waits for an endpoint.
    pub(super) ready_timeout: Duration,
    health: Option<String>,
    /// So many are connected to at the same time: ten thousand at once would overrun the
    /// descriptors of the process, and the timeouts of those at the end.
    pub(super) dialling: Semaphore,
    name: OnceLock<String>,
    nodes: Mutex<BTreeMap<Arc<str>, Arc<Node>>>,
    failing: AtomicUsize,
    warned: AtomicBool,
}

const DIALLING_AT_ONCE: usize = 256;
/// So many reasons are shown in one error.
const SHOWN: usize = 3;

// === impl Pool ===

impl Pool {
    pub(super) fn new(dialer: Dialer, ready_timeout: Duration, health: Option<String>) -> Self {
        Self {
            roster: Roster::default(),
            dialer,
            ready_timeout,
            health,
            dialling: Semaphore::new(DIALLING_AT_ONCE),
            name: OnceLock::new(),
            nodes: Mutex::default(),
            failing: AtomicUsize::new(0),
            warned: AtomicBool::new(false),
        }
    }

    /// What the errors call the service; the first name stays.
    pub(super) fn call_it(&self, name: &str) {
        self.name.get_or_init(|| name.to_owned());
    }

    /// The name to ask the health service of an endpoint about, if it is to be asked.
    pub(super) fn health(&self) -> Option<&str> {
        self.health.as_deref()
    }

    pub(super) fn name(&self) -> &str {
        self.name.get().map_or("", String::as_str)
    }

    pub(super) fn nodes(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node goes on to another condition.
    pub(super) fn turn(&self, node: &Node, condition: ConnectivityState) {
        tracing::debug!(
            service = self.name(),
            address = &*node.address,
            ?condition,
            "endpoint"
        );
        match node.turn(condition) {
            Turn::Fails => {
                let failing = self.failing.fetch_add(1, Relaxed) + 1;
                let all = failing >= self.nodes().len();
                if all && self.roster.len() == 0 && !self.warned.swap(true, Relaxed) {
                    tracing::warn!(
                        service = self.name(),
                        "no endpoint can be reached: {}",
                        self.trouble()
                    );
                }
            }
            turn => self.count(turn),
        }
    }

    /// A node is of interest no more.
    pub(super) fn retire(&self, address: &Arc<str>) {
        let node = self.nodes().remove(address);
        if let Some(node) = node {
            self.count(node.retire());
        }
    }

    pub(super) fn seat(&self, link: &Arc<Link>) {
        let first = self.roster.insert(link.clone()) == 1;
        self.warned.store(false, Relaxed);
        if first {
            let address = &*link.node.address;
            tracing::info!(service = self.name(), address, "endpoints can be called");
        }
    }

    pub(super) fn unseat(&self, link: &Arc<Link>) {
        if self.roster.remove(link) == Some(0) {
            let address = &*link.node.address;
            tracing::info!(service = self.name(), address, "no endpoint can be called");
        }
    }

    /// Why there is none to call: `no endpoint of "greeter": ...`.
    pub(super) fn trouble(&self) -> String {
        let nodes = self.nodes();
        let known = nodes.len();
        let of = match self.name() {
            "" => String::new(),
            name => format!(" of {name:?}"),
        };
        if known == 0 {
            return format!("no endpoint{of}: none registered");
        }
        let reasons: Vec<_> = nodes
            .values()
            .filter_map(|node| node.trouble().map(|why| format!("{}: {why}", node.address)))
            .take(SHOWN)
            .collect();
        if !reasons.is_empty() {
            let more = self.failing.load(Relaxed).saturating_sub(reasons.len());
            let more = match more {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            let reasons = reasons.join("; ");
            return format!("no endpoint{of}: {known} known, none ready: {reasons}{more}");
        }
        format!("no endpoint{of}: {known} known, none connected yet")
    }

    fn count(&self, turn: Turn) {
        match turn {
            Turn::Same => {}
            Turn::Fails => drop(self.failing.fetch_add(1, Relaxed)),
            Turn::Recovers => drop(self.failing.fetch_sub(1, Relaxed)),
        }
    }
}
