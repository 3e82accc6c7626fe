//! mainstay

pub mod redis;
