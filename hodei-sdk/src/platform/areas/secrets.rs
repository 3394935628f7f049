//! The area of secrets.

use hodei_core::port::SecretInfo;
use hodei_core::secret::{SecretName, SecretPolicy, SecretValue};

use crate::Hodei;
use crate::error::Error;
use crate::seam::SecretSeam;

/// The secrets of the caller's tenant, and their policy, on a platform: see [`Hodei::secrets`].
#[derive(Debug, Clone)]
pub struct Secrets {
    hodei: Hodei,
}

impl Secrets {
    pub(in crate::platform) fn new(hodei: &Hodei) -> Self {
        Self { hodei: hodei.clone() }
    }

    /// Stores a value for a secret and replaces the value that it may have. Jobs that name the secret are given it: see
    /// [`JobSpecBuilder::secret`](crate::JobSpecBuilder::secret).
    ///
    /// # Errors
    /// [`Error::NoSecrets`] on a platform without a place for them, [`Error::Secrets`], [`Error::Denied`].
    pub async fn put(&self, name: &SecretName, value: SecretValue) -> Result<(), Error> {
        self.seam().put(self.hodei.caller(), name, value).await
    }

    /// Returns the names of the secrets, in order, and when each changed. Only jobs are given their values.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn list(&self) -> Result<Vec<SecretInfo>, Error> {
        self.seam().list(self.hodei.caller()).await
    }

    /// Deletes a secret; false when there was none. Jobs that were given it keep it to their end.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn delete(&self, name: &SecretName) -> Result<bool, Error> {
        self.seam().delete(self.hodei.caller(), name).await
    }

    /// Replaces the policy that says which jobs may have which secret, for submits and deliveries from now on. A daemon keeps
    /// its own policy: on its client this does nothing.
    pub fn set_policy(&self, policy: SecretPolicy) {
        self.seam().set_policy(policy);
    }

    fn seam(&self) -> &dyn SecretSeam {
        &*self.hodei.seams().secrets
    }
}
