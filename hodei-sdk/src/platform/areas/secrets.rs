//! The area of secrets: put, list, delete, and the policy.

use hodei_core::port::SecretInfo;
use hodei_core::secret::{SecretName, SecretPolicy, SecretValue};

use crate::Hodei;
use crate::error::Error;
use crate::seam::SecretSeam;

/// The secrets of the caller's tenant, and the secret policy of a platform: see [`Hodei::secrets`].
#[derive(Debug, Clone)]
pub struct Secrets {
    hodei: Hodei,
}

impl Secrets {
    pub(in crate::platform) fn new(hodei: &Hodei) -> Self {
        Self { hodei: hodei.clone() }
    }

    /// Stores the value of a secret and replaces any other. Jobs that name the secret get it: see
    /// [`JobSpecBuilder::secret`](crate::JobSpecBuilder::secret).
    ///
    /// # Errors
    /// [`Error::SecretsDisabled`] on a platform without a secret provider, [`Error::SecretStore`], [`Error::Denied`].
    pub async fn put(&self, name: &SecretName, value: SecretValue) -> Result<(), Error> {
        self.seam().put(self.hodei.caller(), name, value).await
    }

    /// Returns the name and time of change of each secret, in order of names. Only jobs get the values.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn list(&self) -> Result<Vec<SecretInfo>, Error> {
        self.seam().list(self.hodei.caller()).await
    }

    /// Deletes a secret; returns false if there was none. Jobs that already have it keep it until they end.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn delete(&self, name: &SecretName) -> Result<bool, Error> {
        self.seam().delete(self.hodei.caller(), name).await
    }

    /// Replaces the policy that says which jobs may have which secrets, for all later submits and deliveries. Has no
    /// effect on the client of a daemon, which keeps its own policy.
    pub fn set_policy(&self, policy: SecretPolicy) {
        self.seam().set_policy(policy);
    }

    fn seam(&self) -> &dyn SecretSeam {
        &*self.hodei.seams().secrets
    }
}
