//! The endpoint without sockets: what is answered, what is told, and that nothing is said of a primary that may be none.

use super::probe;

mod answers;
mod events;
mod patterns;
