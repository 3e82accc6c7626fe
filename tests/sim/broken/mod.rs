//! The hooks through which a mutation tampers: with what an agent hears, knows, does, and with what the shells do.

pub mod force;
mod knowledge;
mod shells;
mod words;
