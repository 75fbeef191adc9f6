//! The task of a channel: reads the changes, and has one task tend each address.

use super::members::{Members, Step};
use super::node::Node;
use super::pool::Pool;
use super::tend::tend;
use crate::discovery::Change;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_stream::{Stream, StreamExt as _};

/// Where the changes come from.
pub(super) type Source = Pin<Box<dyn Stream<Item = Change> + Send>>;

/// A task that ends with its owner.
#[derive(Debug)]
pub(super) struct Tended(JoinHandle<()>);

/// Follows the changes for as long as the channel lives.
pub(super) async fn follow(pool: Arc<Pool>, mut source: Source, mut members: Members) {
    let mut tended: HashMap<Arc<str>, Tended> = HashMap::new();
    while let Some(change) = source.next().await {
        if let Change::Insert { instance, .. } = &change {
            pool.call_it(instance.name());
        }
        for step in members.apply(&change) {
            match step {
                Step::Join(address, weight) => {
                    if let Some(task) = join(&pool, &address, weight) {
                        tended.insert(address, task);
                    }
                }
                Step::Weigh(address, weight) => {
                    if let Some(node) = pool.nodes().get(&address) {
                        node.reweigh(weight);
                    }
                }
                Step::Leave(address) => {
                    pool.retire(&address);
                    tended.remove(&address);
                }
            }
        }
        // A source that always has more must not keep the calls from running.
        tokio::task::consume_budget().await;
    }
    // A source that has ended says nothing any more; that the instances are gone it did not say.
    std::future::pending::<()>().await;
}

fn join(pool: &Arc<Pool>, address: &Arc<str>, weight: u32) -> Option<Tended> {
    let authority = match address.parse() {
        Ok(authority) => authority,
        Err(error) => {
            let service = pool.name();
            tracing::warn!(service, address = &**address, %error, "not an address, left out");
            return None;
        }
    };
    let node = Arc::new(Node::new(address.clone(), authority, weight));
    pool.nodes().insert(address.clone(), node.clone());
    Some(Tended::spawn(tend(pool.clone(), node)))
}

// === impl Tended ===

impl Tended {
    pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl Drop for Tended {
    fn drop(&mut self) {
        self.0.abort();
    }
}
