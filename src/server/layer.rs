//! [`RegistrationLayer`].

use super::RegistrationService;
use crate::logging;
use crate::registration::Registration;
use std::fmt;
use tower_layer::Layer;

/// Ties a tonic server to its [`Registration`], and keeps that alive.
///
/// It counts requests in flight until the last frame of their response, and ends those that
/// outlive the drain deadline: gRPC requests with `UNAVAILABLE`, others with status 503, or, once
/// their response has begun, by cutting it off. It costs no allocation per request.
///
/// Apply it to every server of the registration, outside of layers that answer or delay requests
/// themselves. Once nothing is in flight for 1.5 s of a drain, the connections that are left are
/// closed, and with them requests that this layer does not know of.
///
/// When it is applied, instances with an explicit [address](crate::Instance::address) are
/// announced, unless a listener of the registration exists, whose first poll does it: tonic
/// applies layers in `serve`, after it has bound. axum applies them when the router is built, when
/// nothing listens yet: there, let it [only count](Self::count_only). Applying it more than once is
/// fine.
#[derive(Clone)]
pub struct RegistrationLayer {
    registration: Registration,
    announces: bool,
}

// === impl Registration ===

impl Registration {
    /// The layer for the server: counts requests in flight, ends them at the drain deadline, and
    /// announces instances with an explicit address when it is applied.
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
    /// Announces nothing when it is applied, for servers that apply layers before they listen.
    ///
    /// What announces is then [`incoming`](Registration::incoming) or
    /// [`announce`](Registration::announce).
    #[must_use]
    pub fn count_only(mut self) -> Self {
        self.announces = false;
        self
    }

    fn announce(&self) {
        let lifecycle = self.registration.lifecycle();
        if !self.announces || lifecycle.has_listener() || self.registration.is_announced() {
            return;
        }
        match self.registration.announce_explicit() {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                logging::error!(%error, "cannot announce this server");
            }
            // A layer is applied once for each route of axum.
            None if lifecycle.drain().is_first_warning() => {
                logging::warn!(
                    "nothing tells where this server is dialled: give the instance an address, \
                     or serve it with serve_registered"
                );
            }
            None => {}
        }
    }
}

impl<S> Layer<S> for RegistrationLayer {
    type Service = RegistrationService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        self.announce();
        RegistrationService::new(inner, self.registration.clone())
    }
}

impl fmt::Debug for RegistrationLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationLayer").finish_non_exhaustive()
    }
}
