//! etcd's own error texts and gRPC codes, in addition to those of the model.

use tonic::Status;

pub(super) fn request_too_large() -> Status {
    Status::invalid_argument("etcdserver: request is too large")
}

pub(super) fn auth_not_enabled() -> Status {
    Status::failed_precondition("etcdserver: authentication is not enabled")
}

pub(super) fn auth_failed() -> Status {
    Status::invalid_argument("etcdserver: authentication failed, invalid user ID or password")
}

pub(super) fn invalid_auth_token() -> Status {
    Status::unauthenticated("etcdserver: invalid auth token")
}

pub(super) fn user_is_empty() -> Status {
    Status::invalid_argument("etcdserver: user name is empty")
}

pub(super) fn permission_denied() -> Status {
    Status::permission_denied("etcdserver: permission denied")
}
