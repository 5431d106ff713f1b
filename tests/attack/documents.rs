//! Hostile YAML in a folder and in `istiod-lite translate`: what it takes at its peak, and that the rest of the folder counts.

use std::{fs, path::Path, process::Command, time::Duration};

use harness::{http_client::get_text, mesh::START, wait};

use super::{
    cost::Cost,
    stage::{Stage, services},
};

/// What 10 MB of YAML may take.
const MOST: u64 = 200 << 20;

/// Texts of 10 MB that are much when they are read.
fn hostile() -> Vec<(&'static str, String)> {
    let fill = |piece: &str| piece.repeat((10 << 20) / piece.len());
    let distinct = |line: fn(usize) -> String| (0..400_000).map(line).collect::<String>();
    vec![
        ("question marks", fill("? ")),
        ("dashes", fill("- ")),
        ("small maps", format!("a: [{}{{}}]\n", fill("{a: b},"))),
        ("empty lists", format!("a: [{}[]]\n", fill("[],"))),
        ("keys", distinct(|number| format!("key-{number:07}: {number}\n"))),
        ("lines", fill("- {a: [b]}\n")),
        ("words", format!("a: [{}b]\n", fill("b,"))),
        ("documents", "a: 1\n---\n".repeat(200_000)),
        ("empty documents", fill("---\n")),
        ("comments", fill("# ,,,,,,\n")),
        ("aliases", format!("a: &a [{}]\nb: [{}]\n", "x, ".repeat(10_000), "*a, ".repeat(100_000))),
        ("one text", format!("a: \"{}\"\n", fill("words and words "))),
        ("a text in lines", format!("a: |\n{}", fill("  [a, b, c]: {d: - ? e}\n"))),
    ]
}

/// Returns whether nothing is wrong with a text but its length.
fn is_harmless(name: &str) -> bool {
    matches!(name, "comments" | "empty documents")
}

#[tokio::test]
async fn ten_megabytes_of_yaml_take_less_than_two_hundred() {
    let stage = Stage::start().await;
    for (number, (name, text)) in hostile().into_iter().enumerate() {
        stage.forget_peak();
        stage.write_file("hostile.yaml", &text);
        // A good file that is changed afterwards is read after the hostile one.
        let last = format!("after-{number}");
        stage.write_file("last.yaml", &services(1).replace("svc-0", &last));
        let known = || async {
            let known = get_text(stage.monitoring(), "/debug/registryz").await?;
            anyhow::ensure!(known.contains(&last), "{known}");
            Ok(())
        };
        wait::until("the good file beside the hostile one", START, known).await.unwrap();
        let peak = stage.cost().peak;
        println!("{name}: {} MB", peak >> 20);
        assert!(peak < MOST, "{name}: {} MB", peak >> 20);
        let told = || async {
            let found = get_text(stage.monitoring(), "/debug/diagnostics").await?;
            let is_named = found.contains("hostile.yaml");
            anyhow::ensure!(is_named != is_harmless(name) && found.len() < 1 << 20, "{name}: {} bytes: {found:.600}", found.len());
            Ok(())
        };
        wait::until("the findings", START, told).await.unwrap();
    }
    stage.good().measure().await.unwrap();
}

#[tokio::test]
async fn translate_names_a_hostile_file_and_takes_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("good.yaml"), services(1)).unwrap();
    for (name, text) in hostile() {
        fs::write(folder.path().join("hostile.yaml"), text).unwrap();
        let (peak, said) = translate(folder.path());
        println!("{name}: {} MB", peak >> 20);
        assert!(peak < MOST, "{name}: {} MB", peak >> 20);
        assert!(said.contains("hostile.yaml") != is_harmless(name), "{name}: {said:.600}");
        assert!(said.contains("svc-0.shop.svc.cluster.local"), "{name}: {said:.600}");
    }
}

/// Translates a folder. Returns the peak of the process, as it was last seen while it ran, and all that it wrote.
fn translate(folder: &Path) -> (u64, String) {
    let written = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_istiod-lite"));
    command.args(["translate", "--proxy", "svc-0-0.shop", "--type", "cds", "-f"]).arg(folder);
    let output = written.reopen().unwrap();
    let mut process = command.stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
    let mut peak = 0;
    while process.try_wait().unwrap().is_none() {
        peak = Cost::peak_of(process.id()).unwrap_or(peak);
        std::thread::sleep(Duration::from_millis(2));
    }
    (peak, fs::read_to_string(written.path()).unwrap())
}
