//! The smallest template language that serves: `@NAME@` is replaced by a value, and lines between `# @if FLAG` and
//! `# @end` are kept only where the flag is set. One pass: a value is never looked at again, so it may contain `@`.
//! Both marks are comments or plain text in YAML and shell. Quoting is the caller's: [`yaml`] and [`shell`].

/// Fills a template. A name or flag that is not given stays as it is (tests hold that none does).
pub(super) fn fill(template: &str, flags: &[(&str, bool)], values: &[(&str, String)]) -> String {
    let mut filled = String::with_capacity(template.len());
    let mut keep = true;
    for line in template.split_inclusive('\n') {
        let mark = line.trim();
        if let Some(flag) = mark.strip_prefix("# @if ") {
            keep = flags.iter().any(|(name, set)| *name == flag && *set);
        } else if mark == "# @end" {
            keep = true;
        } else if keep {
            fill_line(line, values, &mut filled);
        }
    }
    filled
}

fn fill_line(line: &str, values: &[(&str, String)], filled: &mut String) {
    let mut rest = line;
    while let Some(start) = rest.find('@') {
        filled.push_str(&rest[..start]);
        let after = &rest[start + 1..];
        let value = after.find('@').and_then(|end| {
            values.iter().find(|(name, _)| *name == &after[..end]).map(|(_, value)| (end, value))
        });
        match value {
            Some((end, value)) => {
                filled.push_str(value);
                rest = &after[end + 1..];
            }
            None => {
                filled.push('@');
                rest = after;
            }
        }
    }
    filled.push_str(rest);
}

/// A YAML double-quoted scalar (a JSON string is one).
pub(super) fn yaml(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// One word of a POSIX shell.
pub(super) fn shell(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_not_looked_at_again() {
        let filled = fill("a@X@b @Y@ c@d\n", &[], &[("X", "@Y@".to_owned()), ("Y", "2".to_owned())]);
        assert_eq!(filled, "a@Y@b 2 c@d\n");
    }

    #[test]
    fn flags_keep_lines() {
        let template = "1\n# @if on\n2\n# @end\n  # @if off\n3\n  # @end\n4\n";
        assert_eq!(fill(template, &[("on", true), ("off", false)], &[]), "1\n2\n4\n");
    }

    #[test]
    fn shell_words() {
        assert_eq!(shell("--epochs"), "--epochs");
        assert_eq!(shell("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(shell(""), "''");
    }
}
