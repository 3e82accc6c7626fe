//! The hooks through which a mutation tampers: with what an agent hears, knows, does, and with what the shells do.

mod knowledge;
mod shells;
mod words;
