//! How to log in to an instance, shared by all who do: changed once, every connection made from then on uses it.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// A secret that `Debug` does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// An ACL user and a password.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// ACL user; `None` is the default user.
    pub username: Option<String>,
    /// Password; `None` means no AUTH is sent.
    pub password: Option<Secret>,
}

/// Credentials that all clones share.
#[derive(Clone, Debug, Default)]
pub struct Login(Arc<RwLock<Credentials>>);

impl Login {
    /// With these.
    pub fn new(credentials: Credentials) -> Self {
        Self(Arc::new(RwLock::new(credentials)))
    }

    /// What holds now.
    pub fn get(&self) -> Credentials {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on these.
    pub fn set(&self, credentials: Credentials) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = credentials;
    }
}

impl PartialEq for Login {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Login {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_reaches_every_clone_and_prints_no_secret() {
        let login = Login::default();
        let other = login.clone();
        login.set(Credentials { username: None, password: Some(Secret::new("s3cret")) });
        assert_eq!(other.get().password, Some(Secret::new("s3cret")));
        assert!(!format!("{other:?}").contains("s3cret"));
    }
}
