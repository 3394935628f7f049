//! The account of this process, which jobs run as.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// An entry of `/etc/passwd`. Accounts that only a network service knows are not found, since a static program cannot
/// look them up. Their jobs have only the environment of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::executor) struct Account {
    pub(in crate::executor) name: OsString,
    pub(in crate::executor) home: OsString,
}

impl Account {
    /// Returns the account of this process.
    pub(in crate::executor) fn of_this_process() -> Option<Self> {
        let accounts = std::fs::read("/etc/passwd").ok()?;
        Self::find(&accounts, rustix::process::geteuid().as_raw())
    }

    /// Finds an account in the text of a passwd(5) file.
    fn find(accounts: &[u8], user: u32) -> Option<Self> {
        accounts.split(|byte| *byte == b'\n').find_map(|line| {
            let mut fields = line.split(|byte| *byte == b':');
            let (name, id, home) = (fields.next()?, fields.nth(1)?, fields.nth(2)?);
            let is_it = std::str::from_utf8(id).ok()?.parse() == Ok(user);
            let text = |field: &[u8]| OsString::from_vec(field.to_vec());
            is_it.then(|| Self { name: text(name), home: text(home) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_number() {
        let text = b"root:x:0:0:root:/root:/bin/bash\n\n# a line\n+::::::\nnobody:x:65534:65534:\xff:/nonexistent:/bin/false\n";
        let found = |user| Account::find(text, user).map(|found| (found.name, found.home));
        assert_eq!(found(0), Some(("root".into(), "/root".into())));
        assert_eq!(found(65534), Some(("nobody".into(), "/nonexistent".into())));
        assert_eq!(found(7), None);
        assert_eq!(Account::find(b"", 0), None);
    }
}
