//! The compression mode of job output.

/// When the agent compresses output, provided that the server accepts compressed output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Only to another machine: on the same machine compression costs more time than it saves.
    #[default]
    Auto,
    /// To every server.
    Always,
    /// To no server.
    Never,
}

impl Compression {
    /// Returns the name that flags use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

impl std::str::FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Auto, Self::Always, Self::Never].into_iter().find(|known| known.as_str() == text);
        known.ok_or_else(|| format!("`{text}` is not a valid compression mode: use auto, always or never"))
    }
}
