"""For gateways that ask which router a request should go to: which worker it is for, and which router is that one's."""
