//! [`RegistrationLayer`].

use super::RegistrationService;
use crate::registrar::registration::Registration;
use crate::runtime::logging;
use std::fmt;
use tower_layer::Layer;

/// Connects a tonic server to its [`Registration`], and keeps the registration alive.
///
/// It counts requests in flight until the last frame of their response. At the drain deadline it ends the remaining
/// requests: gRPC requests with `UNAVAILABLE`, other requests with status 503 or, once their response has begun, with an
/// error of the body. It allocates nothing for a request.
///
/// Apply it to every server of the registration, outside of layers that answer or delay requests themselves. When nothing
/// is in flight for 1.5 s of a drain, the remaining connections are closed, also with requests that it does not count.
///
/// Applying it announces a server whose instances have explicit [addresses](crate::Instance::with_address), because tonic
/// applies layers in `serve`, after it has bound its listener. If the registration has a listener of its own, the first
/// poll of that listener announces the server instead. axum applies layers when the router is built, before it listens:
/// use [`announce(false)`](Self::announce). The layer may be applied more than once.
#[derive(Clone)]
pub struct RegistrationLayer {
    registration: Registration,
    announces: bool,
}

// === impl Registration ===

impl Registration {
    /// The layer for the server: it counts requests in flight, and ends them at the drain deadline. Applying it announces a
    /// server whose instances have explicit addresses.
    #[must_use]
    pub fn layer(&self) -> RegistrationLayer {
        RegistrationLayer {
            registration: self.clone(),
            announces: true,
        }
    }
}

// === impl RegistrationLayer ===

impl RegistrationLayer {
    /// Whether it announces the server when it is applied. Default: yes.
    ///
    /// Set it to `false` for a server that applies layers before it listens, such as axum. Then
    /// [`incoming`](Registration::incoming) or [`announce`](Registration::announce) announces.
    #[must_use]
    pub fn announce(mut self, announces: bool) -> Self {
        self.announces = announces;
        self
    }

    fn on_applied(&self) {
        let (draft, lifecycle) = (
            self.registration.entry().draft(),
            self.registration.lifecycle(),
        );
        if !self.announces || draft.is_announced() || lifecycle.has_listener() {
            return;
        }
        if !draft.is_explicit() {
            // axum applies a layer once for each route.
            if lifecycle.drain().is_first_warning() {
                logging::warn!(
                    "the address to dial this server is not known: give the instance an address, \
                     or serve it with serve_registered"
                );
            }
        } else if let Err(error) = self.registration.announce_served() {
            logging::error!(%error, "cannot announce this server");
        }
    }
}

impl<S> Layer<S> for RegistrationLayer {
    type Service = RegistrationService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        self.on_applied();
        RegistrationService::new(inner, self.registration.clone())
    }
}

impl fmt::Debug for RegistrationLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationLayer").finish_non_exhaustive()
    }
}
