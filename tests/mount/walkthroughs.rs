//! The classic demonstrations of union filesystems, as people know them from articles and manuals.
//! `scripts/demo` plays the same as a tutorial.

use crate::common::{Playground, needs_root, text};

#[test]
fn one_aufs() {
    let play = Playground::new();
    play.sh("mkdir container1 image1 image2 mnt
         echo 'Hello, Container layer!' > container1/container1.txt
         echo 'Hello, Image layer1!' > image1/image1.txt
         echo 'Hello, Image layer2!' > image2/image2.txt
         plyfs -o dirs=./container1:./image2:./image1 none ./mnt");
    let root = play.path("").canonicalize().unwrap().display().to_string();
    let branches = play.sh("plyfs branches mnt");
    assert_eq!(branches, format!("{root}/container1=rw\n{root}/image2=ro\n{root}/image1=ro\n"));
    assert_eq!(play.sh("ls mnt"), "container1.txt\nimage1.txt\nimage2.txt\n");
    play.sh("echo 'Hello, Image layer1 changed!' > mnt/image1.txt");
    assert_eq!(text(play.path("image1/image1.txt")), "Hello, Image layer1!\n");
    assert_eq!(text(play.path("container1/image1.txt")), "Hello, Image layer1 changed!\n");
    assert_eq!(text(play.path("mnt/image1.txt")), "Hello, Image layer1 changed!\n");
    play.sh("plyfs umount mnt");
    assert_eq!(play.sh("ls -A container1"), "container1.txt\nimage1.txt\n");
}

#[test]
fn two_overlay2_with_two_lowers() {
    let play = Playground::new();
    play.sh("mkdir -p overlay2/lower1 overlay2/lower2 overlay2/merged overlay2/upper overlay2/work
         cd overlay2
         echo \"I'm file1, belong to lower1\" > lower1/file1.txt
         echo \"I'm file2, belong to lower2\" > lower2/file2.txt
         echo \"I'm file3, belong to upper\" > upper/file3.txt
         plyfs -o lowerdir=lower1:lower2,upperdir=upper,workdir=work merged");
    assert_eq!(play.sh("ls overlay2/merged"), "file1.txt\nfile2.txt\nfile3.txt\n");
    play.sh("cd overlay2; echo 'file1 has been changed' > merged/file1.txt");
    assert_eq!(text(play.path("overlay2/merged/file1.txt")), "file1 has been changed\n");
    assert_eq!(text(play.path("overlay2/lower1/file1.txt")), "I'm file1, belong to lower1\n");
    assert_eq!(text(play.path("overlay2/upper/file1.txt")), "file1 has been changed\n");
    play.sh("rm overlay2/merged/file2.txt");
    assert_eq!(play.sh("ls overlay2/merged"), "file1.txt\nfile3.txt\n");
    assert_eq!(text(play.path("overlay2/lower2/file2.txt")), "I'm file2, belong to lower2\n");
    assert_eq!(play.sh("ls -A overlay2/upper"), ".wh.file2.txt\nfile1.txt\nfile3.txt\n");
    assert_eq!(play.sh("stat -c '%F %s' overlay2/upper/.wh.file2.txt"), "regular empty file 0\n");
    play.sh("plyfs umount overlay2/merged");
}

#[test]
fn three_one_lower_one_upper() {
    let play = Playground::new();
    play.sh("mkdir lower upper work merged
         echo 'from lower' > lower/in_lower.txt; echo 'from upper' > upper/in_upper.txt
         echo 'from lower' > lower/in_both.txt; echo 'from upper' > upper/in_both.txt
         plyfs -o lowerdir=lower,upperdir=upper,workdir=work merged");
    assert_eq!(play.sh("ls merged"), "in_both.txt\nin_lower.txt\nin_upper.txt\n");
    assert_eq!(text(play.path("merged/in_both.txt")), "from upper\n");
    play.sh("cd merged; echo edited > .in_lower.swp; mv .in_lower.swp in_lower.txt");
    assert_eq!(text(play.path("merged/in_lower.txt")), "edited\n");
    assert_eq!(text(play.path("lower/in_lower.txt")), "from lower\n");
    assert_eq!(text(play.path("upper/in_lower.txt")), "edited\n");

    let size_of = |place: &str| play.sh(&format!("df --output=size {place} | tail -1"));
    assert_eq!(size_of("merged"), size_of("upper"));
    let row = play.sh("df -h merged | tail -1");
    assert!(row.trim_end().ends_with("/merged"), "{row}");

    play.sh("rm merged/in_lower.txt");
    assert_eq!(text(play.path("lower/in_lower.txt")), "from lower\n");
    assert_eq!(play.sh("ls -A upper"), ".wh.in_lower.txt\nin_both.txt\nin_upper.txt\n");
    assert_eq!(play.sh("ls merged"), "in_both.txt\nin_upper.txt\n");
    play.sh("plyfs umount merged");
}

#[test]
fn four_the_nginx_layer() {
    let play = Playground::new();
    play.sh("mkdir -p base/etc base/run debian/usr/sbin conf/etc/nginx/conf.d scripts/docker-entrypoint.d
         mkdir -p conf/var/cache/nginx/client_temp conf/var/cache/nginx/proxy_temp upper work mnt
         touch conf/var/cache/nginx/client_temp/old
         echo debian > base/etc/os-release; echo nginx > debian/usr/sbin/nginx
         echo 'listen 80;' > conf/etc/nginx/conf.d/default.conf
         echo '#!/bin/sh' > scripts/docker-entrypoint.sh; touch scripts/docker-entrypoint.d/10-listen.sh
         plyfs -o lowerdir=scripts:conf:debian:base,upperdir=upper,workdir=work mnt
         cd mnt
         rm docker-entrypoint.sh
         echo 'listen 8080;' > etc/nginx/conf.d/default.conf
         echo 1 > run/nginx.pid
         cd var/cache/nginx; rm -r client_temp proxy_temp
         mkdir client_temp proxy_temp fastcgi_temp uwsgi_temp scgi_temp");
    let expected = "\
.
./.wh.docker-entrypoint.sh
./etc
./etc/nginx
./etc/nginx/conf.d
./etc/nginx/conf.d/default.conf
./run
./run/nginx.pid
./var
./var/cache
./var/cache/nginx
./var/cache/nginx/client_temp
./var/cache/nginx/client_temp/.wh..wh..opq
./var/cache/nginx/fastcgi_temp
./var/cache/nginx/proxy_temp
./var/cache/nginx/proxy_temp/.wh..wh..opq
./var/cache/nginx/scgi_temp
./var/cache/nginx/uwsgi_temp
";
    assert_eq!(play.sh("cd upper; find . | LC_ALL=C sort"), expected);
    play.sh("plyfs umount mnt");
    assert_eq!(play.sh("cd upper; find . | LC_ALL=C sort"), expected);

    // The layer as an image's own.
    play.sh("mkdir upper2 work2; plyfs -o lowerdir=upper:scripts:conf:debian:base,upperdir=upper2,workdir=work2 mnt");
    assert_eq!(play.sh("ls mnt"), "docker-entrypoint.d\netc\nrun\nusr\nvar\n");
    assert_eq!(play.sh("cat mnt/etc/nginx/conf.d/default.conf"), "listen 8080;\n");
    assert_eq!(play.sh("ls mnt/var/cache/nginx/client_temp"), "");
    play.sh("plyfs umount mnt");
}

#[test]
fn five_a_containers_stack() {
    needs_root!("mknod dev/console");
    let play = Playground::new();
    // As docker lays it out: ID/diff, short links to them, and the file `lower` that joins these.
    play.sh(
        "mkdir l; n=0
         for id in base runtime app init; do
            mkdir -p $id/diff; n=$((n + 1)); ln -s ../$id/diff l/SHORT$n
         done
         mkdir -p base/diff/bin base/diff/etc runtime/diff/lib app/diff/app init/diff/etc init/diff/dev
         echo sh > base/diff/bin/sh; echo libc > runtime/diff/lib/libc; echo app > app/diff/app/main
         touch init/diff/etc/hostname init/diff/etc/hosts init/diff/etc/resolv.conf
         mknod init/diff/dev/console c 5 1
         for c in c1 c2; do
            mkdir -p $c/diff $c/work $c/merged
            echo l/SHORT4:l/SHORT3:l/SHORT2:l/SHORT1 > $c/lower
         done
         find base runtime app init -exec stat -c '%n %a %Y %Z %s' {} + | sort > image.before
         for c in c1 c2; do plyfs -o lowerdir=$(cat $c/lower),upperdir=$c/diff,workdir=$c/work $c/merged; done",
    );
    assert_eq!(play.sh("ls c1/merged"), "app\nbin\ndev\netc\nlib\n");
    assert_eq!(play.sh("stat -c %F c1/merged/dev/console"), "character special file\n");
    play.sh("echo c1 > c1/merged/etc/hostname; rm c1/merged/app/main; echo x >> c1/merged/bin/sh");
    assert_eq!(play.sh("cat c2/merged/etc/hostname c2/merged/app/main c2/merged/bin/sh"), "app\nsh\n");
    play.sh("echo c2 > c2/merged/etc/hostname");
    assert_eq!(play.sh("cat c1/merged/etc/hostname"), "c1\n");
    play.sh("plyfs umount c1/merged; plyfs umount c2/merged; rm -rf c1");
    play.sh("find base runtime app init -exec stat -c '%n %a %Y %Z %s' {} + | sort | diff image.before -");
}

#[test]
fn five_of_128_layers_and_more() {
    let play = Playground::new();
    for layers in [128, 200] {
        let seen = play.sh(&format!(
            "mkdir l upper work mnt; lower=
             for n in $(seq {layers}); do
                mkdir -p layer$n/diff/d; echo $n > layer$n/diff/f; touch layer$n/diff/d/$n
                ln -s ../layer$n/diff l/S$n; lower=l/S$n${{lower:+:$lower}}
             done
             plyfs -o lowerdir=$lower,upperdir=upper,workdir=work mnt
             cat mnt/f; ls mnt/d | wc -l
             echo top >> mnt/f; rm mnt/d/1; cat mnt/f; ls mnt/d | wc -l
             plyfs umount mnt; rm -rf l upper work mnt layer*"
        ));
        assert_eq!(seen, format!("{layers}\n{layers}\n{layers}\ntop\n{}\n", layers - 1));
    }
}

#[test]
fn six_shadowing_saves_no_space() {
    let play = Playground::new();
    play.sh("mkdir low upper work mnt
         dd if=/dev/urandom of=low/big bs=1M count=8 status=none; echo small > low/small
         plyfs -o lowerdir=low,upperdir=upper,workdir=work mnt");
    let kib = |place: &str| -> u64 { play.sh(&format!("du -sk {place} | cut -f1")).trim().parse().unwrap() };
    let (union_before, layers_before) = (kib("mnt"), kib("low") + kib("upper"));
    play.sh("rm mnt/big");
    assert!(kib("mnt") + 8 * 1024 <= union_before, "the union is smaller");
    assert!(kib("low") + kib("upper") >= layers_before, "the layers are not");
    play.sh("plyfs umount mnt");
}
