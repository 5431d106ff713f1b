//! The same mistakes made in the folder of a running control plane.

use std::fs;

use harness::{mesh::START, mistakes::virtual_service, wait};
use istiod_lite::xds::resource_type::ResourceType;

use super::{
    cases::{self, FILE, GOOD_CLUSTER, RIVAL_FINDING, RIVAL_GATEWAYS, TAKEN_PORT, TAKEN_PORT_FINDING},
    plane::{CLIENT, ControlPlane, GATEWAY},
};

const NOTHING: [&str; 0] = [];

const REVIEWS: &str = "outbound|9080||reviews.shop.svc.cluster.local";

/// Returns routes for `reviews` with a share for `ratings`.
fn shares(reviews: i32, ratings: i32) -> String {
    let to = |host, weight| format!("{{destination: {{host: {host}}}, weight: {weight}}}");
    virtual_service(&format!("{{route: [{}, {}]}}", to("reviews", reviews), to("ratings", ratings)))
}

fn expected(reviews: u32, ratings: u32) -> Vec<(String, u32)> {
    vec![(REVIEWS.to_owned(), reviews), (GOOD_CLUSTER.to_owned(), ratings)]
}

impl ControlPlane {
    async fn sends(&self, reviews: u32, ratings: u32) {
        let wanted = expected(reviews, ratings);
        wait::until(&format!("{wanted:?}"), START, || async {
            let seen = self.destinations("reviews.").await;
            anyhow::ensure!(seen == wanted, "{seen:?}\n{}", self.log());
            Ok(())
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}"));
    }

    fn times_logged(&self, finding: &str) -> usize {
        self.log().lines().filter(|line| line.ends_with(finding) && !line.contains("no longer: ")).count()
    }
}

#[tokio::test]
async fn each_mistake_is_told_once_and_the_rest_is_served() {
    let plane = ControlPlane::start().await;
    for case in cases::all() {
        // Two cases may be told in the same words.
        let before: Vec<usize> = case.findings.iter().map(|finding| plane.times_logged(finding)).collect();
        case.put_into(&plane.folder());
        plane.finds(case.name, &case.findings).await;
        let errors = case.findings.iter().filter(|finding| finding.starts_with("error: ")).count();
        assert_eq!((plane.counted("error").await, plane.counted("warning").await), (errors, case.findings.len() - errors), "{}", case.name);
        assert!(plane.clusters().await.iter().any(|name| name == GOOD_CLUSTER), "{}", case.name);
        fs::remove_file(plane.folder().join(FILE)).unwrap();
        plane.finds(&format!("nothing after {}", case.name), &NOTHING).await;
        for (finding, before) in case.findings.iter().zip(before) {
            assert_eq!(plane.times_logged(finding), before + 1, "{finding}\n{}", plane.log());
            assert!(plane.log().contains(&format!("no longer: {finding}")), "{finding}");
        }
    }
    assert!(!plane.log().contains('\u{1b}'), "colours in a file");
}

#[tokio::test]
async fn what_was_good_stays_until_the_mistake_is_mended() {
    let plane = ControlPlane::start().await;
    plane.write(FILE, &shares(90, 10));
    plane.sends(90, 10).await;

    // An object is refused: its last good version counts, and with it the rest of the file.
    let added = "---\napiVersion: v1\nkind: Service\nmetadata: {name: added, namespace: shop}\n\
                 spec: {clusterIP: 10.96.0.3, ports: [{name: http, port: 80}]}\n";
    let refused = "error: VirtualService/shop/reviews (z.yaml, document 1) spec.http[0].route[1].weight: must not be negative, is -10";
    plane.write(FILE, &(shares(50, -10) + added));
    plane.finds("a refused weight", &[refused]).await;
    wait::until("the added service", START, || async {
        anyhow::ensure!(plane.clusters().await.iter().any(|name| name == "outbound|80||added.shop.svc.cluster.local"));
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(plane.destinations("reviews.").await, expected(90, 10));
    plane.write(FILE, &(shares(50, 50) + added));
    plane.sends(50, 50).await;
    plane.finds("a mended weight", &NOTHING).await;

    // A document is broken: all that was good of the file counts.
    plane.write(FILE, &(shares(20, 80) + "---\nkind: [\n"));
    wait::until("a broken document", START, || async {
        let found = plane.findings().await?;
        anyhow::ensure!(found.len() == 1 && found[0].starts_with("error: (z.yaml, document 2): "), "{found:?}");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(plane.destinations("reviews.").await, expected(50, 50));
    assert!(plane.clusters().await.iter().any(|name| name == "outbound|80||added.shop.svc.cluster.local"));
    plane.write(FILE, &shares(20, 80));
    plane.sends(20, 80).await;
    plane.finds("a mended file", &NOTHING).await;
}

#[tokio::test]
async fn a_folder_that_vanishes_withdraws_nothing() {
    let plane = ControlPlane::start().await;
    let before = plane.clusters().await;
    let (folder, aside) = (plane.folder(), plane.folder().with_extension("aside"));
    let series = format!("istiod_lite_source_lost{{source=\"folder {}\"}}", folder.display());
    let is = async |value: &str| {
        let reads = || async {
            let seen = plane.metric(&series).await?;
            anyhow::ensure!(seen == value, "{seen}");
            Ok(())
        };
        wait::until(&format!("{series} {value}"), START, reads).await.unwrap_or_else(|error| panic!("{error:#}"));
    };
    fs::rename(&folder, &aside).unwrap();
    is("1").await;
    assert_eq!(plane.clusters().await, before);
    // Another folder in its place is not believed either.
    fs::create_dir(&folder).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(plane.clusters().await, before);
    is("1").await;
    fs::remove_dir(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    is("0").await;
    assert_eq!(plane.clusters().await, before);
    let log = plane.log();
    assert_eq!(log.lines().filter(|line| line.contains("source lost")).count(), 1, "{log}");
    assert_eq!(log.lines().filter(|line| line.contains("source recovered")).count(), 1, "{log}");
    plane.write(FILE, &shares(10, 90));
    plane.sends(10, 90).await;
}

#[tokio::test]
async fn a_server_without_a_listener_is_told_while_its_gateway_is_connected() {
    let plane = ControlPlane::start().await;
    plane.write(FILE, RIVAL_GATEWAYS);
    let _gateway = plane.connect(GATEWAY, ResourceType::Listener, &[]).await;
    plane.finds("rivals", &[RIVAL_FINDING]).await;
    assert_eq!(plane.counted("warning").await, 1);
    assert_eq!(plane.times_logged(RIVAL_FINDING), 1);
    // It moves in its file: the same finding, at its new place, and no news.
    plane.write(FILE, &format!("---\n---\n{RIVAL_GATEWAYS}"));
    plane.finds("rivals moved", &[RIVAL_FINDING.replace("document 2", "document 3")]).await;
    assert_eq!(
        plane.log().lines().filter(|line| line.contains("Gateway.networking.istio.io/shop/b-tcp") && line.contains("held by")).count(),
        1
    );
    fs::remove_file(plane.folder().join(FILE)).unwrap();
    plane.finds("no rivals", &NOTHING).await;
}

#[tokio::test]
async fn what_has_no_place_among_shared_listeners_is_told_while_a_proxy_is_connected() {
    let plane = ControlPlane::start().await;
    let client = plane.connect(CLIENT, ResourceType::Listener, &[]).await;
    plane.write(FILE, TAKEN_PORT);
    plane.finds("a port of the proxy", &[TAKEN_PORT_FINDING]).await;
    assert_eq!((plane.counted("warning").await, plane.times_logged(TAKEN_PORT_FINDING)), (1, 1));
    drop(client);
    plane.write(FILE, &TAKEN_PORT.replace("15001", "15011"));
    plane.finds("another port", &NOTHING).await;
}
