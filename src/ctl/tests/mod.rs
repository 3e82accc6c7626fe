//! Tests of the operator's side: the report, its rendering, the protocol, the socket's bounds.

mod fixture;
mod force;
mod protocol;
mod render;
mod server;
mod status;
