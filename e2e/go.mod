module github.com/fujiwara/stretcher/e2e

go 1.26.0
