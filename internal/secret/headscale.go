package secret

import "regexp"

// Headscale's pre-auth keys had no prefix up to version 0.27: they are 48 hexadecimal digits,
// which neither node keys nor SHA-1 and SHA-256 digests have.
const oldHeadscaleKey = 48

var hexadecimal = regexp.MustCompile(`[0-9a-f]{48,}`)

func scrubOldHeadscale(s string) string {
	return hexadecimal.ReplaceAllStringFunc(s, func(match string) string {
		if len(match) == oldHeadscaleKey {
			return redacted
		}
		return match
	})
}
