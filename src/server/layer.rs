//! [`RegistrationLayer`].

use super::RegistrationService;
use crate::registrar::{Entry, Shared};
use std::fmt;
use std::sync::Arc;
use tower_layer::Layer;

/// Ties a tonic server to its [`Registration`](crate::Registration).
///
/// It counts requests in flight until the last frame of their response, and ends those that
/// outlive the drain deadline with `UNAVAILABLE`. It costs no allocation per request.
///
/// When it is applied, instances with an explicit [address](crate::Instance::address) are
/// announced, unless a listener of the registration exists, whose first poll does it: tonic
/// applies layers in `serve`, after it has bound. (axum applies them when the router is built:
/// there, use [`announce`](crate::Registration::announce) or
/// [`incoming`](crate::Registration::incoming) instead.) Applying it more than once is fine.
#[derive(Clone)]
pub struct RegistrationLayer {
    entry: Arc<Entry>,
    shared: Arc<Shared>,
}

impl RegistrationLayer {
    pub(crate) fn new(entry: Arc<Entry>, shared: Arc<Shared>) -> Self {
        Self { entry, shared }
    }

    fn arm(&self) {
        if self.entry.is_listening() {
            return;
        }
        let armed = match self.entry.is_explicit() {
            true => self.shared.arm(&self.entry, None),
            false => {
                tracing::warn!(
                    "nothing tells where this server is dialled: give the instance an address, \
                     or serve it with serve_registered"
                );
                return;
            }
        };
        if let Err(error) = armed {
            tracing::error!(%error, "cannot announce this server");
        }
    }
}

impl<S> Layer<S> for RegistrationLayer {
    type Service = RegistrationService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        self.arm();
        RegistrationService::new(inner, self.entry.life.serving().clone())
    }
}

impl fmt::Debug for RegistrationLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationLayer").finish_non_exhaustive()
    }
}
