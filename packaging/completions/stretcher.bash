# Completion of stretcher for bash.

_stretcher() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} words
	# Bash takes -option=value for three words.
	if [[ $cur == = ]]; then
		cur=
	elif [[ $prev == = ]]; then
		prev=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	COMPREPLY=()
	case $prev in
	-rsync-verbose) words='-v -vv -vvv' ;;
	-log-level) words='DEBUG INFO WARN ERROR' ;;
	-log-format) words='text json' ;;
	-format) words='zst gz tar' ;;
	-rollback | -state-dir)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return
		;;
	-public-key | -check | -metrics-file | -o | -base | -manifest | -manifest-from | -sign | -password-file)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	-max-bandwidth | -connections | -timeout | -retry | -retry-wait | -random-delay | -command-timeout | -header | -allow | -max-size | -exclude | -mtime | -owner | -upload | -url)
		return # a value that only the user knows
		;;
	*)
		if [[ $cur != -* ]]; then
			compopt -o filenames 2>/dev/null
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			[[ $COMP_CWORD -eq 1 && pack == "$cur"* ]] && COMPREPLY+=(pack)
			return
		elif [[ $COMP_CWORD -gt 1 && ${COMP_WORDS[1]} == pack ]]; then
			words='-o -format -base -exclude -mtime -owner -manifest -manifest-from -sign
				-password-file -upload -url -h -help'
		else
			words='-max-bandwidth -connections -timeout -retry -retry-wait
				-incremental=false -random-delay -command-timeout -header -allow
				-public-key -max-size -rollback -check -dry-run -strict -state-dir
				-metrics-file -rsync-verbose -log-level -log-format -v -version -h -help'
		fi
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _stretcher stretcher
