/// Whether output is compressed on its way, to a server that takes it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// To another machine: within one it costs more time than it saves.
    #[default]
    Auto,
    /// To any.
    Always,
    /// To none.
    Never,
}

impl Compression {
    /// The name, as a flag has it.
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
        known.ok_or_else(|| format!("`{text}` is none of auto, always and never"))
    }
}
