//! Tables over `apply`.
