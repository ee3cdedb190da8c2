package abs

import "net/http"

// SetTransport replaces the way to all servers that a client speaks to, those
// that hand out tokens among them.
func SetTransport(c *ReplicaClient, rt http.RoundTripper) error {
	cn, err := c.pool.connection(c.withDefaults())
	if err != nil {
		return err
	}
	cn.client.Transport = rt
	return nil
}
