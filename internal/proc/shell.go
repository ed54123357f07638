package proc

import (
	"context"
	"fmt"
	"os/exec"
)

// CheckShell runs sh with an environment, and reports that it does not work. The error
// is the cause of ctx if that ends first.
func CheckShell(ctx context.Context, env []string) error {
	sh := exec.CommandContext(ctx, "sh", "-c", ":")
	sh.Env = env
	if err := sh.Run(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("commands are run by sh, which does not work: %w: install a shell, or set PATH", err)
	}
	return context.Cause(ctx)
}
