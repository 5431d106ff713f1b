//! The folder of YAML that the control plane watches, edited as a pipeline would: whole files, one rename each.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The folder that `--config-dir` names.
#[derive(Clone, Debug)]
pub struct Manifests {
    folder: PathBuf,
}

impl Manifests {
    /// Makes the folder.
    pub fn create(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Copies every YAML file of `templates`, with the addresses of the demo's network replaced by `prefix`.
    pub fn copy_from(&self, templates: &Path, prefix: &str) -> Result<()> {
        for entry in fs::read_dir(templates).with_context(|| format!("manifests in {}", templates.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = fs::read_to_string(&path)?.replace("127.0.1.", prefix);
                fs::write(self.folder.join(path.file_name().context("a file has a name")?), text)?;
            }
        }
        Ok(())
    }

    /// Returns where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns a file in it.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Returns the text of a file.
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.path(file);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Replaces a file in one step.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let draft = self.folder.join(format!(".{file}.draft"));
        fs::write(&draft, text)?;
        fs::rename(&draft, self.path(file)).with_context(|| file.to_owned())
    }

    /// Removes a file.
    pub fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.path(file)).with_context(|| file.to_owned())
    }
}

/// Returns the VirtualService's text with the weights of its two routes (v1, v2) replaced.
pub fn with_weights(virtual_service: &str, v1: u32, v2: u32) -> String {
    let mut weights = [v1, v2].into_iter();
    let lines = virtual_service.lines().map(|line| match (line.find("weight: "), line) {
        (Some(at), line) => weights
            .next()
            .map_or_else(|| line.to_owned(), |weight| format!("{}weight: {weight}{}", &line[..at], after_number(&line[at + 8..]))),
        (None, line) => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

fn after_number(text: &str) -> &str {
    text.trim_start_matches(|character: char| character.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_weights_change() {
        let before = "route:\n- {destination: {host: a, subset: v1}, weight: 100}\n- destination: {host: a}\n  weight: 0\n";
        let after = with_weights(before, 90, 10);
        assert_eq!(after, "route:\n- {destination: {host: a, subset: v1}, weight: 90}\n- destination: {host: a}\n  weight: 10\n");
    }
}
