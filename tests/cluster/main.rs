//! The mesh on a real cluster with real pods. One box for all tests, which run in their order: what one leaves is what
//! the next one finds. As root; `make test-cluster` runs them, with `TESTS=<name>` only some.

mod canary;
mod control_plane;
mod delivery;
mod identity;
mod install;
mod istioctl;
mod rotation;
mod stage;
mod traffic;
mod workloads;

use std::{env, process::ExitCode, sync::Arc};

use harness::{cluster::missing, said::say};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::unistd::Uid;
use tokio::runtime::Runtime;

use self::stage::Theatre;

/// Set by `make test-cluster`, and to [`DELIVERY`] by `make test-delivery`: plain `cargo test` leaves this to them.
const ASKED_FOR: &str = "CLUSTER_TESTS";

/// Asks for the tests of canary controllers in place of the others.
const DELIVERY: &str = "delivery";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if !arguments.list {
        if env::var_os(ASKED_FOR).is_none() {
            say("not run here: cluster: `make test-cluster` runs it");
            return ExitCode::SUCCESS;
        }
        if let Some(reason) = missing() {
            say(&format!("skipped: cluster: {reason}"));
            // CI that could run it must.
            let excused = env::var("CI").as_deref() != Ok("true") || !Uid::effective().is_root();
            return if excused { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    }
    match Runtime::new().map_err(Into::into).and_then(Theatre::new) {
        Ok(theatre) => {
            let theatre = Arc::new(theatre);
            let conclusion = libtest_mimic::run(&arguments, trials(&theatre));
            theatre.close();
            conclusion.exit_code()
        }
        Err(error) => {
            eprintln!("cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns every test, in the order in which they run.
fn trials(theatre: &Arc<Theatre>) -> Vec<Trial> {
    macro_rules! trials {
        ($($module:ident::$test:ident),* $(,)?) => {
            vec![$({
                let theatre = Arc::clone(theatre);
                Trial::test(stringify!($test), move || theatre.play(async |cluster| $module::$test(cluster).await).map_err(failed))
            }),*]
        };
    }
    if env::var(ASKED_FOR).as_deref() == Ok(DELIVERY) {
        return trials![delivery::flagger_promotes_and_rolls_back, delivery::argo_rollouts_promotes_and_rolls_back];
    }
    let mut trials = trials![
        install::three_folders_bring_up_a_working_mesh,
        canary::a_canary_is_shifted_and_rolled_back,
        istioctl::istioctl_shows_the_truth,
        traffic::plain_http_is_mutual_tls_on_the_wire,
        traffic::strict_refuses_a_pod_without_sidecar,
        workloads::a_deployment_is_scaled_and_rolled_under_load,
        workloads::probes_fail_while_all_pods_serve,
        control_plane::it_is_deleted_under_load,
        control_plane::it_is_deleted_without_load,
        control_plane::a_second_replica_takes_over,
        identity::projected_tokens_are_rotated,
        identity::a_new_intermediate_is_taken_without_restart,
        rotation::the_root_is_replaced_while_leaders_go,
        install::a_revision_serves_those_who_ask_for_it,
        install::what_was_installed_can_be_removed,
    ];
    let theatre = Arc::clone(theatre);
    trials.push(Trial::test("nothing_of_the_box_is_left", move || theatre.end().map_err(failed)));
    trials
}

fn failed(error: anyhow::Error) -> Failed {
    Failed::from(format!("{error:#}"))
}
