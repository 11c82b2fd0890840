//! An image is mounted and changed: what is told of that, and what comes of it?

use crate::stage::Stage;

#[test]
fn an_image_goes_in_is_changed_and_goes_out() {
    let stage = Stage::new();
    stage.image("import nginx.tar").succeeds();
    let id = stage.image("mount --rw nginx:1 m").succeeds().out.trim().to_owned();
    assert_eq!(id.len(), 64);
    stage.shell(
        r#"
        [ "$(stat -c '%a %u' m/docker-entrypoint.sh)" = "4755 0" ]
        [ "$(stat -c %u:%g m/cache)" = 101:102 ]; [ "$(stat -c %u:%g m/etc/link)" = 7:8 ]
        [ m/dir/low -ef m/dir/other ]; [ -d m/proc ]; [ -f m/etc/hostname ]
        rm m/docker-entrypoint.sh; echo 8080 > m/etc/nginx/conf; echo new > m/added; rm -r m/dir; mkdir m/dir
        "#,
    );
    let told = "D /docker-entrypoint.sh\nA /added\nC /dir\nC /etc\nC /etc/nginx\nC /etc/nginx/conf\n";
    let mut lines: Vec<String> = stage.image("diff m").succeeds().out.lines().map(str::to_owned).collect();
    let mut expected: Vec<String> = told.lines().map(str::to_owned).collect();
    lines.sort();
    expected.sort();
    assert_eq!(lines, expected);

    stage.image("commit --message why --author me m nginx:2").succeeds();
    stage.plyfs("umount m").succeeds();
    let history = stage.image("history nginx:2 --json").succeeds().json();
    assert_eq!(history.as_array().map(Vec::len), Some(3));
    assert_eq!((&*history[0]["comment"].to_string(), history[2]["id"].is_null()), ("\"why\"", true));
    assert!(history[1]["id"].as_str().is_some_and(|id| id.starts_with("sha256:")), "the base is here");
    let inspected = stage.image("inspect nginx:2").succeeds().json();
    assert_eq!(inspected[0]["Config"]["SomethingNew"]["kept"], true, "what plyfs does not know is kept");
    assert_eq!(inspected[0]["Author"], "me");

    // Elsewhere it is the same, to the byte.
    stage.image("push nginx:2 oci:layout:two").succeeds();
    stage.image("--store other pull oci:layout:two --name copy").succeeds();
    let digest = |said: crate::stage::Said| said.json()[0]["Digest"].clone();
    assert_eq!(digest(stage.image("--store other inspect copy").succeeds()), inspected[0]["Digest"]);
    stage.image("--store other mount copy m").succeeds();
    stage.shell(
        r#"
        [ ! -e m/docker-entrypoint.sh ]; [ "$(cat m/etc/nginx/conf m/added)" = "8080
new" ]; [ -z "$(ls m/dir)" ]; [ ! -e m/proc ]; [ ! -e m/etc/hostname ]; [ "$(stat -c %u:%g m/cache)" = 101:102 ]
        "#,
    );
    stage.plyfs("umount m").succeeds();
}

#[test]
fn what_is_meant_by_a_mountpoint_is_what_is_mounted_there() {
    let stage = Stage::new();
    stage.image("import nginx.tar").succeeds();
    let id = stage.image("mount --rw nginx:1 m").succeeds().out.trim().to_owned();
    stage.shell("echo first > m/first");
    stage.plyfs("umount m").succeeds();

    stage.image("commit m x").fails(2, &["nothing is mounted", &id[..12]]);
    stage.image("mount nginx:1 m").succeeds();
    stage.image("diff m").fails(2, &["read-only"]);
    stage.plyfs("umount m").succeeds();
    // Another mount of no image.
    stage.shell("mkdir up; $PLYFS mount --lower system --upper up m; echo x > m/own");
    assert_eq!(stage.image("diff m").succeeds().out, "A /own\n");
    stage.plyfs("umount m").succeeds();

    // The first one goes on, elsewhere.
    stage.shell("mkdir n");
    stage.image(&format!("mount {} n", &id[..8])).succeeds();
    assert_eq!(stage.image("diff n").succeeds().out, "A /first\n");
    stage.image(&format!("rm {id}")).fails(4, &["unmount it first"]);
    stage.plyfs("umount n").succeeds();
    stage.image(&format!("rm {id}")).succeeds();
    stage.image(&format!("diff {id}")).fails(2, &[]);
}

#[test]
fn names_of_one_file_stay_one_file_in_the_commit() {
    let stage = Stage::new();
    stage.image("import nginx.tar").succeeds();
    stage.image("mount --rw nginx:1 m").succeeds();
    stage.shell("echo written >> m/dir/low; [ m/dir/low -ef m/dir/other ]");
    stage.image("commit m nginx:2").succeeds();
    stage.plyfs("umount m").succeeds();
    stage.image("mount nginx:2 m").succeeds();
    stage.shell("[ m/dir/low -ef m/dir/other ]; [ \"$(cat m/dir/other)\" = \"$(printf 'low\nwritten')\" ]");
    stage.plyfs("umount m").succeeds();
}

#[test]
fn an_upper_becomes_an_image() {
    let stage = Stage::new();
    stage.image("import nginx.tar").succeeds();
    stage.shell("mkdir up; echo x > up/x; touch up/.wh.docker-entrypoint.sh");
    stage.image("commit up alone").succeeds();
    stage.image("commit --from nginx:1 up on-top").succeeds();
    stage.image("mount alone m").succeeds();
    stage.shell("[ \"$(ls m)\" = x ]");
    stage.plyfs("umount m").succeeds();
    stage.image("mount on-top m").succeeds();
    stage.shell("[ -e m/x ]; [ -e m/etc/passwd ]; [ ! -e m/docker-entrypoint.sh ]");
    stage.plyfs("umount m").succeeds();
    stage.image("commit nowhere x").fails(2, &["nowhere"]);
    stage.image("commit up Bad:Name").fails(2, &["Bad:Name"]);
}

#[test]
fn every_snapshot_of_the_upper_is_a_layer_of_the_commit() {
    let stage = Stage::new();
    stage.image("import nginx.tar").succeeds();
    let id = stage.image("mount --rw nginx:1 m").succeeds().out.trim().to_owned();
    stage.shell("echo 1 > m/one; echo first > m/both; echo written >> m/dir/low");
    stage.plyfs("snapshot m").succeeds();
    stage.shell("echo second > m/both; rm m/one; echo 2 > m/two; rm m/dir/low");
    stage.plyfs("snapshot m").succeeds();
    stage.shell("echo third > m/both; chown -h 9:9 m/etc/link; mkdir n");

    let layers = |name: &str| {
        let inspected = stage.image(&format!("inspect {name}")).succeeds().json();
        inspected[0]["RootFS"]["Layers"].as_array().map(Vec::len)
    };
    stage.image("commit m nginx:2").succeeds();
    assert_eq!(layers("nginx:2"), Some(5));
    stage.image("mount nginx:2 n").succeeds();
    stage.shell("[ \"$(cat n/both n/two)\" = \"$(printf 'third\n2')\" ]; [ ! -e n/one ]");
    stage.shell(
        "[ \"$(cat n/dir/other)\" = \"$(printf 'low\nwritten')\" ]; [ \"$(stat -c %u n/etc/link)\" = 9 ]",
    );
    stage.plyfs("umount n").succeeds();
    stage.plyfs("umount m").succeeds();
    stage.image(&format!("commit {id} nginx:3")).succeeds();
    assert_eq!(layers("nginx:3"), Some(5));
    stage.image(&format!("mount {id} m")).succeeds();
    stage.shell("[ \"$(cat m/both)\" = third ]");
    stage.plyfs("umount m").succeeds();
    stage.image(&format!("rm {id}")).succeeds();
}

#[test]
fn a_commit_is_reproducible() {
    let stage = Stage::new();
    stage.image("import nginx.tar").succeeds();
    stage.shell("mkdir up; echo x > up/x; chmod 600 up/x; touch up/.wh.gone");
    let commit = |name: &str, upper: &str| {
        let script = format!("SOURCE_DATE_EPOCH=0 $PLYFS image commit --from nginx:1 {upper} {name} --json");
        stage.shell(&script).json()["digest"].clone()
    };
    let first = commit("one", "up");
    stage.shell("sleep 0.01; cp -r up copy; chmod 600 copy/x");
    assert_eq!(commit("two", "copy"), first);
}

#[test]
fn an_ordinary_user_keeps_the_owners_of_an_image() {
    let stage = Stage::new();
    stage.image("import nginx.tar").succeeds();
    let digest = stage.image("inspect -f {{.Digest}} nginx:1").succeeds().out;
    stage.image("push nginx:1 oci:layout:one").succeeds();
    // Nobody may go there, but for this.
    stage.shell("chmod 755 .; chmod -R a+rX layout; mkdir -m 777 home");
    let script = format!(
        r#"
        cd home; export XDG_DATA_HOME=$PWD/data
        $PLYFS image pull oci:../layout:one --name mine >/dev/null
        [ "$($PLYFS image inspect -f '{{{{.Digest}}}}' mine)" = "{digest}" ]
        mkdir m; $PLYFS image mount --rw mine m
        echo y > m/cache/y; chmod 700 m/cache; rm m/docker-entrypoint.sh
        $PLYFS image commit m changed >/dev/null; $PLYFS umount m
        $PLYFS image push changed oci:out:x >/dev/null
        # As root of a user namespace the owners show, and can be changed.
        unshare --user --map-root-user --mount sh -euc '
            mkdir n; $PLYFS image mount --rw changed n
            # What belongs to nobody here is closed to root, too.
            [ "$(stat -c %a n/cache n/etc n/etc/link | xargs)" = "700 755 777" ]
            echo y > n/y; chmod 4751 n/y; mkdir n/new; chmod 1733 n/new; chmod 711 n/etc
            $PLYFS image commit n owners >/dev/null; $PLYFS umount n'
        $PLYFS image push owners oci:out:owners >/dev/null
        $PLYFS image pull oci:out:x --name again >/dev/null
        "#,
        digest = digest.trim()
    );
    // A copy that nobody may run: the build's folder is perhaps not open to him.
    stage.shell(&format!("cp {} plyfs; chmod 755 plyfs", crate::stage::PLYFS));
    let program = stage.path("plyfs");
    let mut command = stage.command("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-euc", &script]);
    crate::stage::say(command.env("PLYFS", program).env("HOME", "/")).succeeds();

    stage.image("pull oci:home/out:x --name back").succeeds();
    stage.image("mount back m").succeeds();
    stage.shell(
        r#"
        [ "$(stat -c '%u:%g %a' m/cache)" = "101:102 700" ]; [ "$(stat -c %u:%g m/cache/y m/etc m/etc/link | xargs)" = "0:0 0:0 7:8" ]
        [ ! -e m/docker-entrypoint.sh ]
        "#,
    );
    stage.plyfs("umount m").succeeds();
    stage.image("pull oci:home/out:owners --name owners").succeeds();
    stage.image("mount owners m").succeeds();
    stage.shell(
        r#"[ "$(stat -c %u:%g.%a m/cache m/cache/y m/y m/new m/etc | xargs)" = "101:102.700 0:0.644 0:0.4751 0:0.1733 0:0.711" ]"#,
    );
    stage.plyfs("umount m").succeeds();
}
