//! etcd's own error texts and gRPC codes.

use tonic::{Code, Status};

macro_rules! errors {
    ($($name:ident: $code:ident, $text:literal;)*) => { $(
        pub(crate) fn $name() -> Status {
            Status::new(Code::$code, concat!("etcdserver: ", $text))
        }
    )* };
}

errors! {
    lease_not_found: NotFound, "requested lease not found";
    lease_exists: FailedPrecondition, "lease already exists";
    ttl_too_large: OutOfRange, "too large lease TTL";
    empty_key: InvalidArgument, "key is not provided";
    key_not_found: InvalidArgument, "key not found";
    value_provided: InvalidArgument, "value is provided";
    lease_provided: InvalidArgument, "lease is provided";
    too_many_operations: InvalidArgument, "too many operations in txn request";
    duplicate_key: InvalidArgument, "duplicate key given in txn request";
    compacted: OutOfRange, "mvcc: required revision has been compacted";
    future_revision: OutOfRange, "mvcc: required revision is a future revision";
    request_too_large: InvalidArgument, "request is too large";
    auth_not_enabled: FailedPrecondition, "authentication is not enabled";
    auth_failed: InvalidArgument, "authentication failed, invalid user ID or password";
    invalid_auth_token: Unauthenticated, "invalid auth token";
    user_is_empty: InvalidArgument, "user name is empty";
    permission_denied: PermissionDenied, "permission denied";
}
