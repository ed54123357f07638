# Completion of stretcher for fish.

function __stretcher_packs
	set -l words (commandline -opc)
	test "$words[2]" = pack
end

complete -c stretcher -n "test (count (commandline -opc)) -eq 1" -a pack -d "make an archive of a directory, and its manifest"

complete -c stretcher -n 'not __stretcher_packs' -o max-bandwidth -x -d 'limit for the download of src, in bytes per second'
complete -c stretcher -n 'not __stretcher_packs' -o connections -x -d 'connections for a download of more than 16 MiB'
complete -c stretcher -n 'not __stretcher_packs' -o timeout -x -d 'time limit for the download of src'
complete -c stretcher -n 'not __stretcher_packs' -o retry -x -d 'retries after a failed download'
complete -c stretcher -n 'not __stretcher_packs' -o retry-wait -x -d 'wait before each retry'
complete -c stretcher -n 'not __stretcher_packs' -o incremental -x -a false -d 'download archives whole, also those with an index of which dest has a part'
complete -c stretcher -n 'not __stretcher_packs' -o random-delay -x -d 'sleep a random time of up to TIME on start'
complete -c stretcher -n 'not __stretcher_packs' -o command-timeout -x -d 'time limit for each command'
complete -c stretcher -n 'not __stretcher_packs' -o header -x -d 'header for http and https requests'
complete -c stretcher -n 'not __stretcher_packs' -o allow -x -d 'fetch only URLs under this prefix, such as https://example.com/deploy'
complete -c stretcher -n 'not __stretcher_packs' -o public-key -r -F -d 'require a minisign signature of the manifest, at its URL plus .minisig, by this or another key'
complete -c stretcher -n 'not __stretcher_packs' -o max-size -x -d 'refuse archives that unpack to more'
complete -c stretcher -n 'not __stretcher_packs' -o rollback -x -a '(__fish_complete_directories)' -d 'deploy again the release of DEST before the current one'
complete -c stretcher -n 'not __stretcher_packs' -o check -r -F -d 'print what is wrong with a manifest'
complete -c stretcher -n 'not __stretcher_packs' -o dry-run -d 'show what a deployment would create, change, delete and run, and do none of it'
complete -c stretcher -n 'not __stretcher_packs' -o strict -d 'refuse manifests with unknown or duplicate keys'
complete -c stretcher -n 'not __stretcher_packs' -o state-dir -x -a '(__fish_complete_directories)' -d 'remember deployed events in DIR, skip their repeats, and keep a history of deployments there'
complete -c stretcher -n 'not __stretcher_packs' -o metrics-file -r -F -d 'write metrics to FILE for node_exporter\'s textfile collector'
complete -c stretcher -n 'not __stretcher_packs' -o rsync-verbose -x -a '-v -vv -vvv' -d 'verbose option for rsync'
complete -c stretcher -n 'not __stretcher_packs' -o log-level -x -a 'DEBUG INFO WARN ERROR' -d 'DEBUG, INFO, WARN or ERROR'
complete -c stretcher -n 'not __stretcher_packs' -o log-format -x -a 'text json' -d 'text or, for an object in each line, json'
complete -c stretcher -n 'not __stretcher_packs' -s v -d 'show the version'
complete -c stretcher -n 'not __stretcher_packs' -o version -d 'show the version'
complete -c stretcher -n 'not __stretcher_packs' -s h -d 'show this help'
complete -c stretcher -n 'not __stretcher_packs' -o help -d 'show this help'

complete -c stretcher -n '__stretcher_packs' -s o -r -F -d 'the archive'
complete -c stretcher -n '__stretcher_packs' -o format -x -a 'zst gz tar' -d 'zst, gz or tar'
complete -c stretcher -n '__stretcher_packs' -o base -r -F -d 'add patches against an older version'
complete -c stretcher -n '__stretcher_packs' -o exclude -x -d 'leave out what matches, as rsync does'
complete -c stretcher -n '__stretcher_packs' -o mtime -x -d 'give no file a later modification time'
complete -c stretcher -n '__stretcher_packs' -o owner -x -d 'give everything this owner and group, names or numbers, such as root:root'
complete -c stretcher -n '__stretcher_packs' -o manifest -r -F -d 'write a manifest'
complete -c stretcher -n '__stretcher_packs' -o manifest-from -r -F -d 'the manifest without src, checksum and index'
complete -c stretcher -n '__stretcher_packs' -o sign -r -F -d 'sign the manifest by the secret key of minisign in this file, and write the signature to MANIFEST.minisig'
complete -c stretcher -n '__stretcher_packs' -o password-file -r -F -d 'the password of the key is the first line of this file'
complete -c stretcher -n '__stretcher_packs' -o upload -x -d 'store archive, signature and manifest under this URL of a bucket or directory (s3, gs, file), or in the directory at this absolute path'
complete -c stretcher -n '__stretcher_packs' -o url -x -d 'hosts find them under this URL'
complete -c stretcher -n '__stretcher_packs' -s h -d 'show this help'
complete -c stretcher -n '__stretcher_packs' -o help -d 'show this help'
