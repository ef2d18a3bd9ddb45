package main

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/varanhq/varan/sync"
	"github.com/varanhq/varan/sync/forge"
	"github.com/varanhq/varan/sync/forge/connect"
	"github.com/varanhq/varan/sync/forge/github"
	"github.com/varanhq/varan/sync/pulls"
	"github.com/varanhq/varan/sync/settings"
)

// forgeOptions is one [[forge]].
func forgeOptions(s *settings.Settings, f *settings.Forge) forge.Options {
	o := forge.Options{Kind: forge.Kind(f.Type), Domain: f.Domain, APIURL: f.APIURL, Token: f.Token.Reveal(), Agent: "varan/" + buildVersion(),
		AllowInternal: s.AllowInternal, AllowHTTP: s.AllowHTTP}
	if f.AppID != 0 {
		o.App = &forge.App{ID: f.AppID, Installation: f.InstallationID, Key: f.PrivateKey.Reveal()}
	}
	return o
}

// forges are the clients of every [[forge]]; one that cannot be made leaves out itself alone.
func forges(s *settings.Settings) ([]pulls.Forge, error) {
	var out []pulls.Forge
	var errs []error
	for i := range s.Forge {
		f := &s.Forge[i]
		if f.Token.Reveal() == "" && f.AppID == 0 {
			continue // a webhook secret alone
		}
		client, err := connect.To(forgeOptions(s, f))
		if err != nil {
			errs = append(errs, fmt.Errorf("[[forge]] %s: %w", f.Domain, err))
			continue
		}
		out = append(out, pulls.Forge{Forge: client, ReportOutput: f.ReportOutput})
	}
	return out, errors.Join(errs...)
}

// appAccounts are the GitHub Apps as accounts for Git: their tokens read what they are installed on.
func appAccounts(s *settings.Settings) []sync.GitAccount {
	var out []sync.GitAccount
	for i := range s.Forge {
		f := &s.Forge[i]
		if f.AppID == 0 || f.InstallationID == 0 {
			continue
		}
		client, err := github.New(forgeOptions(s, f))
		if err != nil {
			continue // forges says so
		}
		acc := sync.GitAccount{Scheme: "https", Host: f.Domain, Username: github.GitUser, Fresh: client.GitToken}
		if strings.HasPrefix(f.APIURL, "http://") { // allowed by allow_http, or New refuses it
			acc.Scheme = "http"
		}
		out = append(out, acc)
	}
	return out
}

func pullSettings(s *settings.Settings) pulls.Settings {
	return pulls.Settings{Fleet: s.Name, PublicURL: s.PublicURL, Poll: time.Duration(s.Config.Poll), PreviewForks: s.Config.PreviewForks,
		Approvers: s.Config.Approvers, Manual: s.Config.Apply == "manual", StatusName: s.Config.StatusName}
}

// openDesk prepares what talks to forges.
func openDesk(s *settings.Settings, may func() bool, log *slog.Logger) (*pulls.Desk, error) {
	list, err := forges(s)
	if err != nil {
		log.Error("a forge is not talked to", "err", err)
	}
	return pulls.New(pulls.Options{Dir: filepath.Join(s.DataDir, "pulls"), Forges: list, Settings: pullSettings(s), May: may, Log: log})
}
