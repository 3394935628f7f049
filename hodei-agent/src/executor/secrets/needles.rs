//! The values to mask in output, searched for in all styles of quoting.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use hodei_core::secret::SecretValue;
use zeroize::Zeroizing;

use super::encoded::Encoded;
use super::look::{Look, Wiped};
use super::quoting::{Style, Walk, walk};

/// Minimum length of a line that is searched for by itself, in bytes: shorter ones are common words.
const MIN_LINE_BYTES: usize = 8;

/// The values to mask, in every style in which programs write them.
pub(crate) struct Needles {
    values: Vec<Wiped>,
    /// The values and their lines.
    needles: Vec<NeedleSpan>,
    /// Indices of the needles by their first two bytes.
    begin: BTreeMap<[u8; 2], Vec<usize>>,
    encoded: Encoded,
    /// For each byte, the styles in which a needle may start with it, as bits.
    styles: [u8; 256],
    /// The length of the longest form.
    longest: usize,
}

#[derive(Debug)]
struct NeedleSpan {
    value: usize,
    range: Range<usize>,
    /// The styles that change it, as bits.
    styles: u8,
}

/// The bit of base64, besides those of [`Style`].
const BASE64_BIT: u8 = 1 << 7;
/// Maximum number of bytes that a style writes for one, such as `\U0001f511` for the first byte of a key emoji, with
/// some quotes.
const MAX_ENCODED_BYTES_PER_BYTE: usize = 12;

impl fmt::Debug for Needles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Needles").finish_non_exhaustive()
    }
}

impl Needles {
    /// Returns the needles of values: each value as it is, without surrounding blanks, and line by line.
    pub(crate) fn of<'a>(values: impl IntoIterator<Item = &'a SecretValue>) -> Self {
        let values: Vec<Wiped> =
            values.into_iter().map(|value| Zeroizing::new(value.expose().to_vec())).collect();
        let plain = values.iter().map(|value| value.trim_ascii());
        let encoded = Encoded::of(plain, SecretValue::SHORTEST);
        let longest = values.iter().map(|value| value.len()).max().unwrap_or(0) * MAX_ENCODED_BYTES_PER_BYTE;
        let longest = longest.max(encoded.longest());
        let mut needles = Self {
            needles: Vec::new(),
            begin: BTreeMap::new(),
            encoded,
            styles: [0; 256],
            longest,
            values: Vec::new(),
        };
        for byte in needles.encoded.beginnings() {
            needles.styles[usize::from(byte)] |= BASE64_BIT;
        }
        for (number, value) in values.iter().enumerate() {
            ranges(value).into_iter().for_each(|range| needles.add(number, range, value));
        }
        needles.values = values;
        needles
    }

    fn add(&mut self, value: usize, range: Range<usize>, bytes: &[u8]) {
        let needle = &bytes[range.clone()];
        let mut styles = 0;
        for style in Style::ALL.into_iter().filter(|style| style.changes(needle)) {
            styles |= style.bit();
            for byte in style.beginnings(needle[0]) {
                self.styles[usize::from(byte)] |= style.bit();
            }
        }
        self.begin.entry([needle[0], needle[1]]).or_default().push(self.needles.len());
        self.needles.push(NeedleSpan { value, range, styles });
    }

    /// Returns the length of the longest form.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Searches at the start of `text`. Subtracts the compared bytes from `budget`. The result is invalid once that is
    /// 0.
    pub(super) fn look(&self, text: &[u8], budget: &mut usize) -> Look {
        let mut look = Look::default();
        let Some(styles) = text.first().map(|byte| self.styles[usize::from(*byte)]) else { return look };
        if styles == 0 {
            return look;
        }
        for style in Style::ALL.into_iter().filter(|style| styles & style.bit() != 0) {
            self.look_by(style, text, budget, &mut look);
        }
        if styles & BASE64_BIT != 0 {
            self.encoded.look(text, budget, &mut look);
        }
        look
    }

    fn look_by(&self, style: Style, text: &[u8], budget: &mut usize, look: &mut Look) {
        let (heads, is_cut) = style.heads(text);
        look.may_be |= is_cut;
        let heads: BTreeSet<u8> = heads.into_iter().flatten().collect();
        let near = heads.into_iter().flat_map(|head| self.begin.range([head, 0]..=[head, 255]));
        for (head, numbers) in near {
            match walk(style, text, head, budget) {
                Walk::No => continue,
                Walk::MayBe => {
                    look.may_be = true;
                    continue;
                }
                Walk::Found(_) => {}
            }
            for needle in numbers.iter().filter_map(|number| self.needles.get(*number)) {
                if needle.styles & style.bit() == 0 {
                    continue;
                }
                match walk(style, text, self.bytes(needle), budget) {
                    Walk::Found(length) => look.found = look.found.max(length),
                    Walk::MayBe => look.may_be = true,
                    Walk::No => {}
                }
                if *budget == 0 {
                    return;
                }
            }
        }
    }

    fn bytes(&self, needle: &NeedleSpan) -> &[u8] {
        self.values.get(needle.value).and_then(|value| value.get(needle.range.clone())).unwrap_or_default()
    }
}

/// Returns the ranges of a value's needles: the value itself, the value without surrounding blanks, and its longer
/// lines.
fn ranges(value: &[u8]) -> Vec<Range<usize>> {
    let plain = trimmed(value, 0..value.len());
    let mut all = vec![0..value.len(), plain.clone()];
    all.retain(|range| range.len() >= SecretValue::SHORTEST);
    let mut from = plain.start;
    for line in value.get(plain).unwrap_or_default().split(|byte| *byte == b'\n') {
        let line_at = trimmed(value, from..from + line.len());
        from += line.len() + 1;
        if line_at.len() >= MIN_LINE_BYTES {
            all.push(line_at);
        }
    }
    all.dedup();
    all
}

/// Returns a part of a value without surrounding blanks.
fn trimmed(value: &[u8], range: Range<usize>) -> Range<usize> {
    let part = value.get(range.clone()).unwrap_or_default();
    let from = range.end - part.trim_ascii_start().len();
    from..from + part.trim_ascii().len()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use std::sync::Arc;

    use bytes::BytesMut;

    use super::super::mask::Mask;
    use super::*;

    fn needles(value: &str) -> Arc<Needles> {
        Arc::new(Needles::of([&SecretValue::new(value.as_bytes().to_vec()).unwrap()]))
    }

    /// Asserts that all but `around` bytes of a text are masked, at any cut.
    fn hides(value: &str, text: &str, around: usize) {
        let needles = needles(value);
        let whole = needles.masked(text);
        assert!(whole.contains("***"), "{value:?} is shown: {text:?} {whole:?}");
        assert!(whole.replace("***", "").len() <= around, "{value:?}: {text:?} {whole:?}");
        for cut in (0..=text.len()).step_by(1 + text.len() / 50) {
            let (mut mask, mut shown) = (Mask::new(needles.clone()), BytesMut::new());
            mask.push(&text.as_bytes()[..cut], &mut shown);
            mask.push(&text.as_bytes()[cut..], &mut shown);
            mask.finish(&mut shown);
            assert_eq!(String::from_utf8_lossy(&shown), whole, "{value:?} is cut at {cut} of {text:?}");
        }
    }

    /// Values that quoting changes.
    const VALUES: [&str; 8] = [
        r#"it's "q" $x `y` \z"#,
        "two lines\nof\tsome \u{1b}[1m tool",
        "p@ss!<wörd>&🔑;a=b",
        r"back\slash\nand\\more\x41\101\u0041",
        "'quoted' \"twice\" ''and\"\" more'",
        "%41%2541 100% of it&amp;&lt;=3D",
        "-----BEGIN KEY-----\nMIIB+a/c==\n-----END KEY-----",
        "{\"a\": \"b\\n\", 'c': [1, 2]}",
    ];

    fn output_of(program: &str, arguments: &[&str], value: &str) -> Option<String> {
        let mut command = Command::new(program);
        command.args(arguments).arg(value).env("LC_ALL", "C.UTF-8").env("PERL_UNICODE", "SA");
        let run = command.output();
        let Ok(output) = run else {
            eprintln!("skipped: {program} is missing");
            return None;
        };
        let shown = if output.stderr.is_empty() { output.stdout } else { output.stderr };
        Some(String::from_utf8_lossy(&shown).into_owned())
    }

    #[test]
    fn a_value_is_masked_as_shells_quote_it() {
        for value in VALUES {
            for (script, around) in [
                ("set -x; : \"$1\"", 8),
                ("set -x; x=\"$1\"", 8),
                ("printf %q \"$1\"", 6),
                ("echo \"${1@Q}\"", 6),
                ("echo \"${1@E} ${1@Q}\"", 40),
                ("p=$1; declare -p p", 20),
                ("declare -A p=([k]=$1); declare -p p", 32),
                ("p=$1; set | grep -a -A5 ^p=", 10),
                ("p=$1; export p; export -p | grep -a -A5 ' p='", 22),
                ("eval \"f() { echo ${1@Q}; }\"; declare -f f", 30),
                ("a=(\"$1\"); echo \"${a[@]@A}\"", 24),
                ("printf '%s' \"${1@Q}\" | sed \"s/'/&/\" | od -An -c >&2; printf %q \"$1\" >&2", usize::MAX),
            ] {
                let Some(text) = output_of("bash", &["-c", script, "job"], value) else { return };
                hides(value.trim_ascii(), &text, around);
            }
            for script in ["set -x; : \"$1\"", "x=$1; set | grep -A5 ^x="] {
                let Some(text) = output_of("dash", &["-c", script, "job"], value) else { continue };
                hides(value.trim_ascii(), &text, 8);
            }
        }
    }

    #[test]
    fn a_value_is_masked_as_languages_quote_it() {
        const PYTHON: [(&str, usize); 12] = [
            ("repr(v)", 4),
            ("ascii(v)", 4),
            ("v.encode()", 4),
            ("[v, {'k': v}]", 16),
            ("shlex.quote(v)", 6),
            ("json.dumps(v)", 4),
            ("json.dumps(json.dumps(v))", 10),
            ("json.dumps(json.dumps(json.dumps(v)))", 24),
            ("json.dumps(v, ensure_ascii=False)", 4),
            ("urllib.parse.quote(urllib.parse.quote(v, safe=''))", 2),
            ("urllib.parse.quote_plus(v)", 2),
            ("html.escape(v)", 2),
        ];
        for value in VALUES {
            let prints = PYTHON.map(|(expression, _)| format!("print({expression}, end='\\0')\n")).concat();
            let script = format!("import sys,json,shlex,html,urllib.parse\nv=sys.argv[1]\n{prints}");
            let Some(text) = output_of("python3", &["-c", &script], value) else { return };
            for (text, (_, around)) in text.split('\0').zip(PYTHON) {
                hides(value.trim_ascii(), text, around);
            }
            for (program, script) in [
                ("node", "console.log([process.argv[1]], JSON.stringify({v: process.argv[1]}))"),
                ("perl", "use Data::Dumper; $Data::Dumper::Useqq=1; print Dumper($ARGV[0])"),
                ("perl", "print quotemeta($ARGV[0])"),
                ("ruby", "p ARGV[0]; puts ARGV[0].dump"),
            ] {
                let Some(text) = output_of(program, &["-e", script, "--"], value) else { continue };
                hides(value.trim_ascii(), &text, 36);
            }
            let rust = format!("{value:?} {}", value.escape_unicode());
            hides(value, &rust, 3);
            hides(value, &value.escape_default().to_string(), 1);
        }
    }

    #[test]
    fn a_value_is_masked_as_mail_dumps_and_databases_write_it() {
        for value in VALUES {
            let bytes = value.as_bytes();
            let each = |form: fn(&u8) -> String, between: &str| {
                bytes.iter().map(form).collect::<Vec<_>>().join(between)
            };
            for text in [
                each(|byte| format!("{byte:02x}"), ""),
                each(|byte| format!("{byte:02X}"), ":"),
                each(|byte| format!("{byte:02x}"), " "),
                each(|byte| format!("0x{byte:02x}"), ", "),
                each(|byte| format!("\\x{byte:02x}"), ""),
                each(|byte| format!("%{byte:02X}"), ""),
                each(
                    |byte| match byte {
                        b'!'..=b'<' | b'>'..=b'~' => char::from(*byte).to_string(),
                        _ => format!("={byte:02X}"),
                    },
                    "",
                ),
                each(|byte| format!("\\{byte:03o}"), ""),
                value.replace('\'', "''"),
                value.replace('"', "\"\""),
                value.replace('&', "&amp;").replace('<', "&#60;").replace('>', "&#x3E;"),
            ] {
                hides(value.trim_ascii(), text.trim_ascii(), 6);
            }
        }
        hides("tab\tand\u{1b}escape", "tab^Iand^[escape", 0);
        hides("a value that mail breaks into lines", "a value that=\r\n mail breaks into=20lines", 0);
    }

    #[test]
    fn output_behind_a_value_stays() {
        for (value, json, twice) in [
            ("ends in \\", r#"{"v":"***"}"#, r#""{\"v\":\"***\"}""#),
            ("ends in \\\\", r#"{"v":"***"}"#, r#""{\"v\":\"***\"}""#),
            ("ends in \"", r#"{"v":"***"}"#, r#""{\"v\":\"***\"}""#),
            ("ends in '", r#"{"v":"***"}"#, r#""{\"v\":\"***\"}""#),
        ] {
            let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            let once = format!("{{\"v\":\"{}\"}}", escaped(value));
            assert_eq!(needles(value).masked(&once), json, "{once}");
            assert_eq!(needles(value).masked(&format!("\"{}\"", escaped(&once))), twice, "{once}");
            assert_eq!(needles(value).masked(&format!("{value}!")), "***!");
        }
    }

    #[test]
    fn each_line_of_a_value_is_masked_in_each_style() {
        let value = "first line's end\nsecond \"line\" \\ more\nshort\n";
        let text = "12:00 'first line'\\''s end\n12:00 second \\\"line\\\" \\\\ more\n12:00 short\n";
        assert_eq!(needles(value).masked(text), "12:00 '***\n12:00 ***\n12:00 short\n");
    }

    #[test]
    fn output_that_resembles_a_value_is_shown() {
        for (value, text) in [
            ("hunter22", "hunter 22, 'hunter', \"22\" hunter\\x33 hunter%33 68 75 6e 74 h'u'n't"),
            ("a\nb\nc\nd", "anbncnd a\\rb\\rc\\rd"),
            ("a&b&c&d", "a&lt;b a&b&c& d a%25b"),
            ("password=1", "password==31 password=\n2 pass=word=1"),
        ] {
            assert_eq!(needles(value).masked(text), text);
        }
    }

    #[test]
    fn base64_is_masked_at_any_offset_of_the_value() {
        let value = "s3cr3t/with+odd?bytes";
        for around in ["", "x", "xy", "xyz", "user:"] {
            for behind in ["", "\n", "@host"] {
                let text = format!("{around}{value}{behind}");
                // Characters of base64 that the value shares with its surroundings.
                let before = (around.len() * 8).div_ceil(6);
                let after = if behind == "@host" { 12 } else { 0 };
                hides(value, &STANDARD.encode(&text), before + after);
                hides(value, &URL_SAFE.encode(&text), before + after);
            }
        }
    }

    #[test]
    fn base64_is_masked_with_any_line_width() {
        for length in [20, 57, 60, 100, 200] {
            let value: String = (0..length).map(|n: u32| char::from(b'!' + ((n * 7) % 90) as u8)).collect();
            for around in ["", "x", "user:", &"far before it ".repeat(4)] {
                for width in [64, 76] {
                    let whole = STANDARD.encode(format!("{around}{value}\n"));
                    let lines = whole.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap());
                    let text = lines.collect::<Vec<_>>().join("\n");
                    // The text before the value, and the ends of lines with too little of it.
                    let shown = needles(&value).masked(&text).replace("***", "").replace('\n', "");
                    let before = (around.len() * 8).div_ceil(6);
                    assert!(shown.len() <= before + 2 * 8, "{length} {around:?} {width}: {shown}");
                }
            }
        }
    }

    #[test]
    fn a_value_is_masked_in_urls_in_json_and_by_its_lines() {
        for text in [
            "pass word/\"1\"",
            "second line",
            "pass%20word%2F%221%22%0A%09second%20line",
            "pass%20word%2f%221%22%0a%09second%20line",
            "pass+word%2F%221%22%0A%09second+line",
            r#"pass word/\"1\"\n\tsecond line"#,
            r#"pass word\/\"1\"\n\tsecond line"#,
            "pass%20word/%221%22%0A%09second%20line",
            "7061737320776f72642f2231220a097365636f6e64206c696e65",
            "%70%61%73%73%20%77%6F%72%64%2F%22%31%22%0A%09%73%65%63%6F%6E%64%20%6C%69%6E%65",
        ] {
            hides("  pass word/\"1\"\n\tsecond line\n", text, 0);
        }
        for text in [
            "p%40ss!%3Cw%C3%B6rd%3E%26%F0%9F%94%91",
            "p%40ss%21%3Cw%C3%B6rd%3E%26%F0%9F%94%91",
            r"p@ss!\u003cwörd\u003e\u0026🔑",
            r"p@ss!<w\u00f6rd>&\ud83d\udd11",
        ] {
            hides("p@ss!<wörd>&🔑", text, 0);
        }
    }

    #[test]
    fn no_needle_is_too_short() {
        assert_eq!(needles(" a b").masked("a b"), "a b");
        assert_eq!(needles("abcd").masked("YWI= YW Jj abc"), "YWI= YW Jj abc");
    }

    #[test]
    fn needles_take_little_memory_compared_to_their_values() {
        let size = |length: usize| {
            let value: String = (0..length).map(|n| char::from(b'!' + (n * n % 90) as u8)).collect();
            let needles = needles(&value);
            needles.encoded.size() + needles.needles.len() * size_of::<NeedleSpan>() + value.len()
        };
        assert!(size(4 << 10) < 50 * (4 << 10), "{}", size(4 << 10));
        assert!(size(64 << 10) < 12 * (64 << 10), "{}", size(64 << 10));
        assert!(size(1 << 20) < 6 << 20, "{}", size(1 << 20));
    }
}
